"""From starting a process to its first "ready", and the most memory it takes: this project's service beside others.

    python -m benchmarks.start

For models/default and for GPT-2 small's shape. Files are in the system's cache, as after any first start. Memory is
the peak of the resident set (VmHWM) of the process and its children, at ready and after texts of 1024 tokens.
"""

import asyncio
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.artifacts import articles, gpt2_small, long_texts
from benchmarks.errors import Unavailable
from benchmarks.figures import medians
from benchmarks.load import closed_loop
from benchmarks.machine import command, describe
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT, peak_rss_mib
from benchmarks.servers import ARTICLE, BENTOML, LITSERVE, OURS, Server, article, bentoml, litserve, ours, up
from benchmarks.tables import table
from classifier.artifact import read_artifact

TOKENS = 1024
CLIENTS = 4


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures: for each artifact and service a list of rounds."""
    figures: dict[str, Any] = {
        "machine": describe(),
        "command": command(),
        "texts": options.texts,
        "tokens": TOKENS,
        "starts": {},
        "unavailable": {},
    }
    places = {
        "models/default": ROOT / "models" / "default",
        "gpt2-small": gpt2_small(options.work, options.tokenizer),
    }
    sample = articles(options.data, 50, options.seed)
    texts = {
        name: long_texts(sample, read_artifact(place).encoder(), TOKENS, options.texts)
        for name, place in places.items()
    }
    for turn in range(options.rounds):
        for name, place in places.items():
            for server_name, make in _servers(place, options).items():
                reasons = figures["unavailable"].setdefault(name, {})
                if server_name in reasons:
                    continue
                say(f"round {turn + 1} of {options.rounds}: {name}, {server_name}")
                try:
                    record = _start(make(), texts[name], options)
                except Unavailable as exc:
                    reasons[server_name] = str(exc)
                    say(f"{server_name}: {exc}")
                    continue
                figures["starts"].setdefault(name, {}).setdefault(server_name, []).append(record)
    return figures


def _servers(artifact: Path, options: Namespace) -> dict[str, Callable[[], Server]]:
    return {
        OURS: lambda: ours(artifact),
        ARTICLE: lambda: article(artifact, TOKENS),
        LITSERVE: lambda: litserve(artifact, TOKENS, options.work),
        BENTOML: lambda: bentoml(artifact, TOKENS, options.work),
    }


def _start(server: Server, texts: list[str], options: Namespace) -> dict[str, float]:
    with up(server, options.work) as running:
        at_ready = peak_rss_mib(running.process.pid)
        requests = [server.request(text) for text in texts]
        load = asyncio.run(closed_loop("127.0.0.1", running.port, requests, clients=CLIENTS, count=len(requests)))
        answered = load.summary()["statuses"].get("200", 0)
        if answered != len(requests):
            raise Unavailable(f"answered {answered} of {len(requests)} long texts")
        return {
            "ready_s": running.ready_s,
            "ready_mib": at_ready,
            "loaded_mib": peak_rss_mib(running.process.pid),
        }


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows: list[list[str | float | None]] = []
    for artifact, starts in figures["starts"].items():
        mine = medians(starts.get(OURS, []))
        for name, turns in starts.items():
            merged = medians(turns)
            ratio = f"{merged['ready_s'] / mine['ready_s']:.2f}" if mine else "-"
            seconds = [turn["ready_s"] for turn in turns]
            spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
            rows.append(
                [artifact, name, f"{merged['ready_s']:.2f}", spread, ratio, merged["ready_mib"], merged["loaded_mib"]]
            )
    for artifact, reasons in figures["unavailable"].items():
        rows += [[artifact, name, reason, None, None, None, None] for name, reason in reasons.items()]
    head = ["", "", "ready s", "least to most", "of ours", "peak MiB at ready", "after long texts"]
    rounds = max((len(turns) for starts in figures["starts"].values() for turns in starts.values()), default=0)
    return "\n".join(
        [
            f"{rounds} rounds, medians; then {figures['texts']} texts of {figures['tokens']} tokens, {CLIENTS} at a "
            "time. The peak of several processes is the sum of theirs, pages that they share counted in each.",
            "",
            table(head, rows),
        ]
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=int, default=8, help=f"of {TOKENS} tokens, after the start")
    options = arguments.parse_args()
    if options.quick:
        options.rounds, options.texts = 1, 2
    figures = measure(options)
    save(options, "start", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
