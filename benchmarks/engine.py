"""Tokens per second of this project's forward beside other runtimes, over the same articles.

    python -m benchmarks.engine                               up to 1024 tokens per article, the shape of GPT-2 small
    python -m benchmarks.engine --tokens 128
    python -m benchmarks.engine --artifact models/default --contestants "ours|transformers"

Each runtime is a process in an environment of its own. All are loaded at once (about 1 GB each) and take turns: each
round runs every one over all articles, one at a time, beginning with another one each round. Every answer is compared
with that of transformers in float32. The machine's own matrix product is measured in the same rounds.
"""

import json
import re
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.processes import ROOT, last_line
from benchmarks.runtimes.process import RuntimeProcess, started
from benchmarks.tools.command_line import parser, run, run_part, say
from benchmarks.tools.environments import environment
from benchmarks.tools.errors import BenchmarkError, Unavailable
from benchmarks.tools.inputs import articles, config_of, resolve, token_ids
from benchmarks.tools.machine import cpu_flags, has_bfloat16
from benchmarks.tools.markdown import Cell, number, table
from benchmarks.tools.statistics import forward_flops
from classifier.artifact import read_artifact
from service.model.host import available_cpus

CEILING = "matrix product"
REFERENCE = "transformers float32, alone"
OURS = "ours float32"
SETTLE_S = 0.3
"""Pause before each turn: threads of the turn before may still spin for a moment."""


@dataclass(frozen=True)
class Contestant:
    """One runtime with its settings."""

    name: str
    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """The environment that it runs in; None: the project's own environment."""
    onnx: str | None = None
    """The precision of the exported file that it reads."""


def _contestants() -> Iterator[Contestant]:
    cpus = available_cpus()
    for precision in ("float32", "int8", "bfloat16"):
        yield Contestant(f"ours {precision}", "packed", {"precision": precision, "lanes": cpus})
        yield Contestant(f"ours {precision}, one lane", "packed", {"precision": precision})
    for dtype, batch in product(("float32", "bfloat16"), (1, 8)):
        name = f"transformers {dtype}, {'alone' if batch == 1 else f'padded {batch}'}"
        yield Contestant(name, "transformers_model", {"dtype": dtype, "batch": batch})
    yield Contestant("torch.compile float32", "transformers_model", {"compiled": True})
    for precision, sessions in product(("float32", "int8"), (1, cpus)):
        name = f"ONNX Runtime {precision}, one session" if sessions == 1 else f"ONNX Runtime {precision}"
        yield Contestant(name, "onnx_runtime", {"sessions": sessions}, environment="onnxruntime", onnx=precision)
    for precision, hint in product(("float32", "bfloat16"), ("LATENCY", "THROUGHPUT")):
        settings = {"hint": hint, "precision": precision}
        name = f"OpenVINO {precision}, {hint.lower()}"
        yield Contestant(name, "openvino_runtime", settings, environment="openvino", onnx="float32")


CONTESTANTS = tuple(_contestants())


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures of all rounds: for each contestant tokens per second, or why it did not run."""
    artifact = resolve(options)
    config = config_of(artifact)
    layers, width, limit = config["n_layer"], config["n_embd"], min(options.tokens, config["n_positions"])
    encoder = read_artifact(artifact).encoder()
    encoder.max_tokens = limit
    ids = token_ids(articles(options, options.articles, options.seed), encoder)
    ids_path = (options.work / "ids.json").absolute()
    ids_path.parent.mkdir(parents=True, exist_ok=True)
    ids_path.write_text(json.dumps(ids), encoding="utf-8")
    common = {"artifact": str(artifact), "ids": str(ids_path), "threads": available_cpus()}
    # without the reference no answer could be checked
    wanted = [each for each in CONTESTANTS if re.search(options.contestants, each.name) or each.name == REFERENCE]
    figures: dict[str, Any] = {
        "artifact": artifact.name,
        "parameters": 12 * layers * width**2 + width * (config["vocab_size"] + config["n_positions"]),
        "articles": len(ids),
        "tokens": sum(map(len, ids)),
        "limit": limit,
        "flops": forward_flops([len(row) for row in ids], layers, width),
        "environments": sorted({each.environment for each in wanted if each.environment}),
        "ceiling": [],
        "contestants": {each.name: {"turns": []} for each in wanted},
    }
    with ExitStack() as stack:
        runtimes: dict[str, RuntimeProcess] = {}
        for each in wanted:
            try:
                runtimes[each.name] = _start(each, common, options, stack)
            except Unavailable as exc:
                _give_up(figures, each.name, exc)
        if REFERENCE not in runtimes:
            raise BenchmarkError(f"{REFERENCE}: {figures['contestants'][REFERENCE]['unavailable']}")
        dtypes = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
        log = options.work / "logs" / "ceiling.log"
        runtimes[CEILING] = stack.enter_context(started("matrix_product", {**common, "dtypes": dtypes}, log=log))
        _rounds(runtimes, options.rounds, figures)
    return figures


def _start(each: Contestant, common: Mapping[str, Any], options: Namespace, stack: ExitStack) -> RuntimeProcess:
    """Start a contestant and warm it up by one turn.

    Raises:
        Unavailable: It cannot run here.
    """
    if "bfloat16" in each.name and not has_bfloat16():
        raise Unavailable("not on this CPU: it has no bfloat16 instructions")
    settings = {**common, **each.settings}
    python = environment(options.work, each.environment) if each.environment else None
    if each.onnx:
        settings["onnx"] = str(exported(Path(common["artifact"]), options.work) / f"{each.onnx}.onnx")
    say(f"starting {each.name}")
    log = options.work / "logs" / f"{re.sub('[^a-z0-9]+', '-', each.name.lower())}.log"
    inductor = {"TORCHINDUCTOR_CACHE_DIR": str((options.work / "inductor").absolute())}
    return stack.enter_context(started(each.module, settings, log=log, python=python, environment=inductor))


def exported(artifact: Path, work: Path) -> Path:
    """Return the directory with the artifact's ONNX files, which are made if they do not exist.

    Raises:
        Unavailable: They cannot be made.
    """
    weights = read_artifact(artifact).weights_sha256
    directory = (work / "onnx" / f"{artifact.name}-{weights[:12]}").absolute()
    if (directory / "int8.onnx").is_file():  # the last one to be written
        return directory
    say(f"exporting to ONNX: {directory}")
    # without VNNI, sums of pairs of 8-bit products would overflow 16 bits
    flags = [] if {"avx512_vnni", "avx_vnni", "asimd"} & cpu_flags() else ["reduce-range"]
    python = environment(work, "onnxruntime")
    log = work / "logs" / "export.log"
    with log.open("wb") as output:
        export: list[str | Path] = [python, "-m", "benchmarks.runtimes.export_onnx", artifact, directory, *flags]
        done = subprocess.run(export, cwd=ROOT, stdout=output, stderr=output, check=False)
    if done.returncode:
        raise Unavailable(f"export to ONNX: {last_line(log)}")
    return directory


def _rounds(runtimes: dict[str, RuntimeProcess], rounds: int, figures: dict[str, Any]) -> None:
    reference = runtimes[REFERENCE].ready["logits"]
    names = list(runtimes)
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if name not in runtimes:
                continue
            time.sleep(SETTLE_S)
            try:
                answer = runtimes[name].run(turn)
            except Unavailable as exc:
                _give_up(figures, name, exc)
                del runtimes[name]
                continue
            if name == CEILING:
                figures["ceiling"].append(answer["gflops"])
                continue
            record = figures["contestants"][name]
            record["turns"].append(answer["tokens"] / answer["seconds"])
            record["peak_rss_mib"] = answer["peak_rss_mib"]
            difference, flips = differences(answer["logits"], reference)
            record["largest_difference"] = max(difference, record.get("largest_difference", 0.0))
            record["labels_differ"] = max(flips, record.get("labels_differ", 0))


def differences(rows: list[list[float]], reference: list[list[float]]) -> tuple[float, int]:
    """Return the largest absolute difference of a logit (infinite for NaN) and the number of texts with another
    label."""
    pairs = [abs(a - b) for row, truth in zip(rows, reference, strict=True) for a, b in zip(row, truth, strict=True)]
    flips = sum(row.index(max(row)) != truth.index(max(truth)) for row, truth in zip(rows, reference, strict=True))
    return max(pair if pair == pair else float("inf") for pair in pairs), flips


def _give_up(figures: dict[str, Any], name: str, reason: Unavailable) -> None:
    say(f"{name}: {reason}")
    figures["contestants"].setdefault(name, {"turns": []})["unavailable"] = str(reason)


HEAD = "|tokens/s|least to most|of ours float32|GFLOP/s|of the ceiling|peak MiB|largest logit difference|other labels"


def rates(figures: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return median, lowest and highest tokens/s of each contestant that ran."""
    turns = {name: record["turns"] for name, record in figures["contestants"].items() if record["turns"]}
    return {name: (median(each), min(each), max(each)) for name, each in turns.items()}


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    ceilings = {dtype: [turn[dtype] for turn in figures["ceiling"]] for dtype in (figures["ceiling"] or [{}])[0]}
    ours = figures["contestants"].get(OURS, {}).get("turns", [])
    measured = rates(figures)
    rows: list[list[Cell]] = []
    for name, record in figures["contestants"].items():
        if name not in measured:
            rows.append([name, record.get("unavailable", "no turn"), *[None] * 7])
            continue
        rate, least, most = measured[name]
        # a contestant that ended early has only its first turns
        ratio = median(t / o for t, o in zip(record["turns"], ours, strict=False)) if ours else float("nan")
        gflops = figures["flops"] / figures["tokens"] * rate / 1e9
        ceiling = max(ceilings.get("bfloat16" if "bfloat16" in name else "float32", [float("nan")]))
        cells = [name, rate, f"{number(least)} to {number(most)}", f"{ratio:.2f}", gflops]
        cells += [f"{100 * gflops / ceiling:.0f} %", record["peak_rss_mib"]]
        rows.append([*cells, record["largest_difference"], record["labels_differ"]])
    products = (f"{name} {number(max(v))} GFLOP/s at best, median {number(median(v))}" for name, v in ceilings.items())
    rounds = max(len(record["turns"]) for record in figures["contestants"].values())
    return (
        f"{figures['articles']} articles of at most {figures['limit']} tokens, {figures['tokens']:,} tokens in all; "
        f"`{figures['artifact']}` ({figures['parameters'] / 1e6:.0f} million parameters); "
        f"{rounds} rounds, medians.\n\n{table(HEAD.split('|'), rows)}\n\n"
        f"The machine's own matrix product: {'; '.join(products)}. GFLOP/s count the whole forward's work, also the "
        "part that a runtime leaves out; int8 is compared with the float32 ceiling. Logits and labels are compared "
        "with those of transformers in float32."
    )


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--articles", type=int, default=24)
    arguments.add_argument("--tokens", type=int, default=1024, help="longest article; the rest is cut off")
    arguments.add_argument("--contestants", default="", help="a regular expression; default: all")
    run_part(arguments, "engine-{tokens}", measure, report, articles=4, rounds=1)


if __name__ == "__main__":
    run(main)
