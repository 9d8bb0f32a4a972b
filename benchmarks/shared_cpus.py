"""This project's service on a machine that it does not have for itself, and short texts.

    python -m benchmarks.shared_cpus

One service, 32 clients in a closed loop, rounds in which all conditions take turns: articles on a quiet machine, beside
one busy process of another program, and under a quota of CPUs; then short texts of 10 to 30 tokens. The quota is
set by a control group, which needs root; without it these rounds are left out. Where `wrk` is installed, it sends the
same articles, so that an independent program confirms the load generator of these benchmarks.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.processes import running
from benchmarks.servers.start import ours, started
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, parser, run, run_part, say
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.inputs import articles, resolve, token_ids
from benchmarks.tools.load import closed_loop
from benchmarks.tools.markdown import Cell, table
from benchmarks.tools.statistics import medians
from classifier.artifact import read_artifact

CLIENTS = 32
QUOTAS = (1.5, 1.0)
PERIOD_US = 100_000
SHORT_TOKENS = range(10, 31)
QUIET, BUSY, SHORT, WRK = "articles", "articles, beside a busy process", "short texts", "articles, sent by wrk"
SCRIPT = """
local i, bodies = 0, {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
request = function()
  i = i %% #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, bodies[i])
end
"""


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures: for each condition a list of rounds with throughput and latencies."""
    artifact = resolve(options)
    server = ours(artifact)
    texts = articles(options, 400, options.seed)
    encoder = read_artifact(artifact).encoder()
    sentences = [f"{part}." for text in texts for part in text.split(". ")]
    counts = [len(ids) for ids in token_ids(sentences, encoder)]
    short = [text for text, count in zip(sentences, counts, strict=True) if count in SHORT_TOKENS]
    figures: dict[str, Any] = {"artifact": artifact.name, "turns": {}}
    with started(server, options.work) as service, ExitStack() as stack:
        long_requests, short_requests = ([server.request(text) for text in each] for each in (texts, short))
        quiet = partial(_ours, service.port, long_requests, options.seconds)
        conditions: dict[str, Callable[[], dict[str, float]]] = {
            QUIET: quiet,
            BUSY: partial(_beside_a_busy_process, quiet, options.work),
            SHORT: partial(_ours, service.port, short_requests, options.seconds),
        }
        try:
            set_quota = stack.enter_context(_control_group(service.process.pid))
        except OSError as exc:
            say(f"no quota is measured, because a control group cannot be made: {exc}")
        else:
            for cpus in QUOTAS:
                conditions[f"articles, quota of {cpus} CPUs"] = partial(_under, set_quota, cpus, quiet)
        if shutil.which("wrk"):
            conditions[WRK] = partial(_wrk, service.port, texts, options)
        quiet()  # the warm-up
        for turn in range(options.rounds):
            for name, measure_turn in conditions.items():
                say(f"round {turn + 1} of {options.rounds}: {name}")
                figures["turns"].setdefault(name, []).append(measure_turn())
    return figures


def _ours(port: int, requests: list[bytes], seconds: float) -> dict[str, float]:
    summary = asyncio.run(closed_loop(port, requests, clients=CLIENTS, seconds=seconds)).summary()
    if set(summary["statuses"]) != {"200"}:
        raise BenchmarkError(f"not every request was answered: {summary['statuses']}")
    return {name: summary[name] for name in ("throughput_per_s", "p50_ms", "p99_ms")}


def _beside_a_busy_process(measure_turn: Callable[[], dict[str, float]], work: Path) -> dict[str, float]:
    with running([sys.executable, "-c", "while True: pass"], log=work / "logs" / "busy.log"):
        return measure_turn()


def _under(
    set_quota: Callable[[float | None], None], cpus: float, measure_turn: Callable[[], dict[str, float]]
) -> dict[str, float]:
    set_quota(cpus)
    try:
        return measure_turn()
    finally:
        set_quota(None)


@contextmanager
def _control_group(pid: int) -> Iterator[Callable[[float | None], None]]:
    """Put a process into a control group of its own (version 2 or 1), and yield a function that sets its CPUs.

    Raises:
        OSError: there is no control group to write to.
    """
    root = Path("/sys/fs/cgroup")
    version_2 = (root / "cgroup.controllers").exists()
    group = (root if version_2 else root / "cpu") / f"benchmark-{pid}"
    parent = group.parent / "cgroup.procs"
    group.mkdir()

    def set_quota(cpus: float | None) -> None:
        quota = None if cpus is None else round(cpus * PERIOD_US)
        if version_2:
            (group / "cpu.max").write_text(f"{'max' if quota is None else quota} {PERIOD_US}")
        else:
            (group / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))

    try:
        set_quota(None)
        (group / "cgroup.procs").write_text(str(pid))
        yield set_quota
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            parent.write_text(member)
        group.rmdir()


def _wrk(port: int, texts: list[str], options: Namespace) -> dict[str, float]:
    """Return the throughput that wrk measures; it gives latencies with less detail, so there are none."""
    bodies, script = options.work / "wrk.jsonl", options.work / "wrk.lua"
    bodies.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    script.write_text(SCRIPT % bodies.absolute(), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{CLIENTS}", f"-d{round(options.seconds)}s", "--timeout", "30s", "-s", str(script)]
    output = subprocess.run([*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output:
        raise BenchmarkError(f"wrk did not get an answer to every request:\n{output}")
    rate = next(line.split()[1] for line in output.splitlines() if line.startswith("Requests/sec"))
    return {"throughput_per_s": float(rate), "p50_ms": float("nan"), "p99_ms": float("nan")}


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    turns = figures["turns"]
    quiet = turns[QUIET]
    rows: list[list[Cell]] = []
    for name, rounds in turns.items():
        ratios = sorted(
            each["throughput_per_s"] / still["throughput_per_s"] for each, still in zip(rounds, quiet, strict=True)
        )
        merged = medians(rounds)
        ratio = f"{ratios[len(ratios) // 2]:.2f}" if name != SHORT else None
        rows.append([name, merged["throughput_per_s"], merged["p50_ms"], merged["p99_ms"], ratio])
    return (
        f"`{figures['artifact']}`, {CLIENTS} clients, {len(quiet)} rounds, medians; a short text has "
        f"{SHORT_TOKENS[0]} to {SHORT_TOKENS[-1]} tokens.\n\n"
        + table(["", "texts/s", "p50 ms", "p99 ms", "of the quiet machine"], rows)
    )


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, artifact=DEFAULT_ARTIFACT, rounds=3)
    arguments.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    run_part(arguments, "shared-cpus", measure, report, rounds=1, seconds=3.0)


if __name__ == "__main__":
    run(main)
