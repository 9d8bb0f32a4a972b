"""Time from the start of a process until it is ready, and its peak memory: this project's service beside others.

    python -m benchmarks.start

It measures models/default and the shape of GPT-2 small, with files in the system's cache, as after any first start.
Memory is the peak resident size (VmHWM) of the process and its children, when ready and after texts of 1024 tokens.
"""

import asyncio
from argparse import Namespace
from typing import Any

from benchmarks.processes import peak_rss_mib
from benchmarks.servers.start import OURS, Server, servers, started
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, GPT2_SMALL, parser, run, run_part, say
from benchmarks.tools.errors import Unavailable
from benchmarks.tools.inputs import articles, gpt2_small, long_texts
from benchmarks.tools.load import closed_loop
from benchmarks.tools.markdown import Cell, table
from benchmarks.tools.statistics import medians
from classifier.artifact import read_artifact

TOKENS = 1024
CLIENTS = 4


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures: for each artifact and server a list of rounds."""
    figures: dict[str, Any] = {"texts": options.texts, "tokens": TOKENS, "starts": {}, "unavailable": {}}
    artifacts = {"models/default": DEFAULT_ARTIFACT, GPT2_SMALL: gpt2_small(options.work)}
    sample = articles(options, 50, options.seed)
    for turn in range(options.rounds):
        for name, artifact in artifacts.items():
            texts = long_texts(sample, read_artifact(artifact).encoder(), TOKENS, options.texts)
            unavailable = figures["unavailable"].setdefault(name, {})
            for server_name, make in servers(artifact, TOKENS, options.work).items():
                if server_name in unavailable:
                    continue
                say(f"round {turn + 1} of {options.rounds}: {name}, {server_name}")
                try:
                    record = _start(make(), texts, options)
                except Unavailable as exc:
                    unavailable[server_name] = str(exc)
                    say(f"{server_name}: {exc}")
                    continue
                figures["starts"].setdefault(name, {}).setdefault(server_name, []).append(record)
    return figures


def _start(server: Server, texts: list[str], options: Namespace) -> dict[str, float]:
    with started(server, options.work) as running:
        at_ready = peak_rss_mib(running.process.pid)
        requests = [server.request(text) for text in texts]
        load = asyncio.run(closed_loop(running.port, requests, clients=CLIENTS, count=len(requests)))
        answered = load.summary()["statuses"].get("200", 0)
        if answered != len(requests):
            raise Unavailable(f"answered {answered} of {len(requests)} long texts")
        peak = peak_rss_mib(running.process.pid)
        return {"ready_s": running.ready_s, "ready_mib": at_ready, "loaded_mib": peak}


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows: list[list[Cell]] = []
    for artifact, starts in figures["starts"].items():
        mine = medians(starts.get(OURS, []))
        for name, turns in starts.items():
            merged = medians(turns)
            ratio = f"{merged['ready_s'] / mine['ready_s']:.2f}" if mine else "-"
            seconds = [turn["ready_s"] for turn in turns]
            cells = [artifact, name, f"{merged['ready_s']:.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}", ratio]
            rows.append([*cells, merged["ready_mib"], merged["loaded_mib"]])
    for artifact, reasons in figures["unavailable"].items():
        rows += [[artifact, name, reason, None, None, None, None] for name, reason in reasons.items()]
    rounds = max((len(turns) for starts in figures["starts"].values() for turns in starts.values()), default=0)
    return (
        f"{rounds} rounds, medians; then {figures['texts']} texts of {figures['tokens']} tokens, {CLIENTS} at a time. "
        "The peak of several processes is the sum of theirs; pages that they share count in each.\n\n"
        + table(["", "", "ready s", "least to most", "of ours", "peak MiB at ready", "after long texts"], rows)
    )


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, default=8, help=f"of {TOKENS} tokens, after the start")
    run_part(arguments, "start", measure, report, rounds=1, texts=2)


if __name__ == "__main__":
    run(main)
