"""Tokens a second of this project's forward beside other runtimes', over the same BBC articles.

    python -m benchmarks.engine                               up to 1024 tokens an article, GPT-2 small's shape
    python -m benchmarks.engine --tokens 128
    python -m benchmarks.engine --artifact models/default --contestants "ours|transformers"

Each runtime is a process of its own, in an environment of its own; all are loaded at once (about 1 GB each) and take
turns: each round runs every one over all articles, one at a time, beginning with another one each round. Every answer
is compared with transformers' in float32. The machine's own matrix product is measured in the same rounds.
"""

import json
import re
import subprocess
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.artifacts import articles, resolve, shape_of, token_ids
from benchmarks.environments import environment, pinned
from benchmarks.errors import BenchmarkError, Unavailable
from benchmarks.figures import forward_flops
from benchmarks.machine import command, cpu_flags, describe, has_bfloat16, versions_in
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT, last_line
from benchmarks.tables import number, table
from benchmarks.workers.client import Worker, started
from classifier.artifact import read_artifact
from service.model.host import available_cpus

CEILING = "matrix product"
REFERENCE = "transformers float32, sdpa, alone"
OURS = "ours float32"
SETTLE_S = 0.3
"""Before each turn: the threads of the one before may still spin for a moment."""


@dataclass(frozen=True)
class Contestant:
    """One runtime with its settings."""

    name: str
    family: str
    """Of several in one family the best counts."""
    module: str
    flags: tuple[str, ...] = ()
    environment: str | None = None
    """A peer's environment; None: the project's."""
    onnx: str | None = None
    """The exported file that it reads."""
    bfloat16: bool = False


def _ours(precision: str) -> list[Contestant]:
    flags = ("--precision", precision)
    family, low = f"ours {precision}", precision == "bfloat16"
    return [
        Contestant(family, family, "packed", flags, bfloat16=low),
        Contestant(f"{family}, alone", f"{family}, alone", "packed", (*flags, "--budget", "1"), bfloat16=low),
    ]


def _transformers(dtype: str) -> list[Contestant]:
    family = f"transformers {dtype}"
    return [
        Contestant(
            f"{family}, {attention}, {'alone' if batch == 1 else f'padded {batch}'}",
            family,
            "reference",
            ("--dtype", dtype, "--attention", attention, "--batch", str(batch)),
            bfloat16=dtype == "bfloat16",
        )
        for attention in ("eager", "sdpa")
        for batch in (1, 8)
    ]


def _openvino(precision: str) -> list[Contestant]:
    return [
        Contestant(
            f"OpenVINO {precision}, {hint.lower()}",
            f"OpenVINO {precision}",
            "openvino_runtime",
            ("--hint", hint, "--precision", precision),
            environment="openvino",
            onnx="float32",
            bfloat16=precision == "bfloat16",
        )
        for hint in ("LATENCY", "THROUGHPUT")
    ]


def _onnx_runtime(precision: str) -> Contestant:
    name = f"ONNX Runtime {precision}"
    return Contestant(name, name, "onnx_runtime", environment="onnxruntime", onnx=precision)


CONTESTANTS = (
    *(each for precision in ("float32", "int8", "bfloat16") for each in _ours(precision)),
    *_transformers("float32"),
    *_transformers("bfloat16"),
    Contestant("torch.compile float32", "torch.compile float32", "reference", ("--compile",)),
    _onnx_runtime("float32"),
    _onnx_runtime("int8"),
    *_openvino("float32"),
    *_openvino("bfloat16"),
)


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures of all rounds: for each contestant tokens/s, or why it did not run."""
    artifact = resolve(options.artifact, options)
    threads = available_cpus()
    loaded = read_artifact(artifact)
    texts = articles(options.data, options.articles, options.seed)
    limit = min(options.tokens, json.loads((artifact / "config.json").read_text(encoding="utf-8"))["n_positions"])
    encoder = loaded.encoder()
    encoder.max_tokens = limit
    ids = token_ids(texts, encoder)
    ids_path = (options.work / "ids.json").absolute()
    ids_path.parent.mkdir(parents=True, exist_ok=True)
    ids_path.write_text(json.dumps(ids), encoding="utf-8")
    common = ("--artifact", str(artifact), "--ids", str(ids_path), "--threads", str(threads))
    wanted = [each for each in CONTESTANTS if re.search(options.contestants, each.name)]
    if REFERENCE not in [each.name for each in wanted]:  # nobody's answers could be checked
        wanted += [each for each in CONTESTANTS if each.name == REFERENCE]
    figures: dict[str, Any] = {
        "artifact": artifact.name,
        "shape": vars(shape_of(artifact)),
        "articles": len(ids),
        "tokens": sum(map(len, ids)),
        "limit": limit,
        "flops": forward_flops([len(row) for row in ids], shape_of(artifact).layers, shape_of(artifact).width),
        "machine": describe(),
        "command": command(),
        "peers": {},
        "ceiling": [],
        "contestants": {each.name: {"family": each.family, "turns": []} for each in wanted},
    }
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for each in wanted:
            try:
                workers[each.name] = _start(each, common, loaded.weights_sha256, options, figures, stack)
            except Unavailable as exc:
                _give_up(figures, each.name, exc)
        if REFERENCE not in workers:
            raise BenchmarkError(f"{REFERENCE}: {figures['contestants'][REFERENCE]['unavailable']}")
        dtypes = ["float32", *(["bfloat16"] if has_bfloat16() else [])]
        log = options.work / "logs" / "ceiling.log"
        workers[CEILING] = stack.enter_context(started("ceiling", [*common, "--dtypes", *dtypes], log=log))
        _rounds(workers, options.rounds, figures)
    return figures


def _start(
    each: Contestant,
    common: tuple[str, ...],
    weights: str,
    options: Namespace,
    figures: dict[str, Any],
    stack: ExitStack,
) -> Worker:
    """A contestant's worker, warmed up by one turn.

    Raises:
        Unavailable: it cannot run here.
    """
    if each.bfloat16 and not has_bfloat16() and not options.force:
        raise Unavailable("not on this CPU: it has no bfloat16 instructions")
    flags = [*common, *each.flags]
    python = environment(options.work, each.environment) if each.environment else None
    if each.environment and python:
        figures["peers"][each.environment] = versions_in(python, pinned(each.environment))
    if each.onnx:
        flags += ["--model", str(exported(Path(common[1]), weights, options.work) / f"{each.onnx}.onnx")]
    say(f"starting {each.name}")
    log = options.work / "logs" / f"{re.sub('[^a-z0-9]+', '-', each.name.lower())}.log"
    inductor = {"TORCHINDUCTOR_CACHE_DIR": str((options.work / "inductor").absolute())}
    worker = stack.enter_context(started(each.module, flags, log=log, python=python, environment=inductor))
    figures["contestants"][each.name]["load_s"] = worker.ready["load_s"]
    figures["contestants"][each.name]["first_turn_s"] = worker.ready["seconds"]
    return worker


def exported(artifact: Path, weights: str, work: Path) -> Path:
    """The directory with the artifact's ONNX files, made if they are not there.

    Raises:
        Unavailable: they cannot be made.
    """
    directory = (work / "onnx" / f"{artifact.name}-{weights[:12]}").absolute()
    if (directory / "int8.onnx").is_file():  # the last one to be written
        return directory
    say(f"exporting to ONNX: {directory}")
    flags = ["--artifact", str(artifact), "--output", str(directory)]
    if not {"avx512_vnni", "avx_vnni", "asimd"} & cpu_flags():
        flags.append("--reduce-range")  # sums of pairs of 8-bit products would overflow 16 bits
    python = environment(work, "onnxruntime")
    log = work / "logs" / "export.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [python, "-m", "benchmarks.workers.export_onnx", *flags],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise Unavailable(f"export to ONNX: {last_line(log)}")
    return directory


def _rounds(workers: dict[str, Worker], rounds: int, figures: dict[str, Any]) -> None:
    reference = workers[REFERENCE].ready["logits"]
    names = list(workers)
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            if name not in workers:
                continue
            time.sleep(SETTLE_S)
            try:
                answer = workers[name].run(turn)
            except Unavailable as exc:
                _give_up(figures, name, exc)
                del workers[name]
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
    """Largest absolute difference of a logit, and how many texts get another label. NaN counts as infinite."""
    pairs = [abs(a - b) for row, truth in zip(rows, reference, strict=True) for a, b in zip(row, truth, strict=True)]
    flips = sum(row.index(max(row)) != truth.index(max(truth)) for row, truth in zip(rows, reference, strict=True))
    return max(pair if pair == pair else float("inf") for pair in pairs), flips


def _give_up(figures: dict[str, Any], name: str, reason: Unavailable) -> None:
    say(f"{name}: {reason}")
    figures["contestants"].setdefault(name, {"turns": []})["unavailable"] = str(reason)


def summary(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a contestant: medians over the rounds, and medians of each round's ratio to ours in float32."""
    ceiling = max((turn["float32"] for turn in figures["ceiling"]), default=float("nan"))
    low = max((turn.get("bfloat16", float("nan")) for turn in figures["ceiling"]), default=float("nan"))
    ours = figures["contestants"].get(OURS, {}).get("turns", [])
    rows = []
    for name, record in figures["contestants"].items():
        turns = record["turns"]
        if not turns:
            rows.append({"name": name, "unavailable": record.get("unavailable", "no turn")})
            continue
        rate = median(turns)
        gflops = figures["flops"] / figures["tokens"] * rate / 1e9
        rows.append(
            {
                "name": name,
                "family": record["family"],
                "tokens_per_s": rate,
                "least": min(turns),
                "most": max(turns),
                # a contestant that died half-way has fewer turns; which of the rounds they were is known
                "of_ours": median(t / o for t, o in zip(turns, ours, strict=False)) if ours else float("nan"),
                "gflops": gflops,
                "of_ceiling": gflops / (low if "bfloat16" in name else ceiling),
                "peak_rss_mib": record["peak_rss_mib"],
                "largest_difference": record["largest_difference"],
                "labels_differ": record["labels_differ"],
            }
        )
    return rows


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    head = [
        "",
        "tokens/s",
        "least to most",
        "of ours float32",
        "GFLOP/s",
        "of the ceiling",
        "peak MiB",
        "largest logit difference",
        "other labels",
    ]
    rows: list[list[str | float | None]] = []
    for row in summary(figures):
        if "unavailable" in row:
            rows.append([row["name"], row["unavailable"], *[None] * 7])
            continue
        rows.append(
            [
                row["name"],
                row["tokens_per_s"],
                f"{number(row['least'])} to {number(row['most'])}",
                f"{row['of_ours']:.2f}",
                row["gflops"],
                f"{100 * row['of_ceiling']:.0f} %",
                row["peak_rss_mib"],
                row["largest_difference"],
                row["labels_differ"],
            ]
        )
    ceilings = {dtype: [turn[dtype] for turn in figures["ceiling"]] for dtype in (figures["ceiling"] or [{}])[0]}
    lines = [
        f"{figures['articles']} articles of at most {figures['limit']} tokens, {figures['tokens']:,} tokens in all; "
        f"`{figures['artifact']}` ({figures['shape']['parameters'] / 1e6:.0f} million parameters); "
        f"{max(len(record['turns']) for record in figures['contestants'].values())} rounds, medians.",
        "",
        table(head, rows),
        "",
        "The machine's own matrix product: "
        + "; ".join(
            f"{dtype} {number(max(v))} GFLOP/s at best, median {number(median(v))}" for dtype, v in ceilings.items()
        )
        + ". GFLOP/s count the whole forward's work, also what a runtime leaves out; int8 is held against the float32 "
        "ceiling. Logits and labels are compared with transformers' in float32.",
    ]
    return "\n".join(lines)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--articles", type=int, default=24)
    arguments.add_argument("--tokens", type=int, default=1024, help="most of an article")
    arguments.add_argument("--contestants", default="", help="a regular expression; default all")
    arguments.add_argument("--force", action="store_true", help="bfloat16 also where the CPU has to emulate it")
    options = arguments.parse_args()
    if options.quick:
        options.articles, options.rounds = min(options.articles, 4), 1
    figures = measure(options)
    save(options, f"engine-{options.tokens}", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
