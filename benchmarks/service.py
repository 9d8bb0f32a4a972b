"""This project's service beside three others over the same artifact: throughput and latency over HTTP.

    python -m benchmarks.service
    python -m benchmarks.service --artifact models/default --seconds 20

Every service reads the first 128 tokens of the same BBC articles. In each round each of them is started, measured and
stopped in turn, beginning with another one each round. First closed loops of 1 to 64 clients; then open loops, Poisson
arrivals at fractions of the capacity (the best throughput of the closed loops) of ours and of the article's handler.
In the same rounds runs the bare engine, without HTTP.
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.artifacts import articles, resolve, truncating
from benchmarks.environments import environment, pinned
from benchmarks.errors import BenchmarkError, Unavailable
from benchmarks.figures import medians, poisson_schedule
from benchmarks.load import Pool, closed_loop, open_loop
from benchmarks.machine import command, describe, versions_in
from benchmarks.options import parser, run, save, say
from benchmarks.servers import ARTICLE, BENTOML, LITSERVE, OURS, Server, Up, article, bentoml, litserve, ours, up
from benchmarks.tables import number, table
from benchmarks.workers.client import Worker, started
from service.model.host import available_cpus

TOKENS = 128
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
FRACTIONS = (0.2, 0.5, 0.8, 0.95)
SATURATING = 32
"""Clients at which the service is held against the bare engine."""

BARE = "bare engine"
HOST = "127.0.0.1"
WARM_UP = 8
"""Requests before anything is measured."""


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures of all rounds."""
    artifact = truncating(resolve(options.artifact, options), TOKENS, options.work)
    texts = articles(options.data, options.articles, options.seed)
    figures: dict[str, Any] = {
        "artifact": artifact.name,
        "tokens": TOKENS,
        "machine": describe(),
        "command": command(),
        "peers": {},
        "unavailable": {},
        "labels": {},
        "closed": {},
        "open": {},
        "bare_texts_per_s": [],
    }
    contestants = _servers(artifact, options, figures)
    _closed_rounds(contestants, artifact, texts, options, figures)
    _open_rounds(contestants, texts, options, figures)
    return figures


def _servers(artifact: Path, options: Namespace, figures: dict[str, Any]) -> list[Server]:
    makers: dict[str, Callable[[], Server]] = {
        OURS: lambda: ours(artifact),
        ARTICLE: lambda: article(artifact, TOKENS),
        LITSERVE: lambda: litserve(artifact, TOKENS, options.work),
        BENTOML: lambda: bentoml(artifact, TOKENS, options.work),
    }
    made = []
    for name, make in makers.items():
        try:
            made.append(make())
        except Unavailable as exc:
            figures["unavailable"][name] = str(exc)
            say(f"{name}: {exc}")
            continue
        if name in (LITSERVE, BENTOML):
            peer = name.lower()
            figures["peers"][peer] = versions_in(environment(options.work, peer), pinned(peer))
    return made


def _closed_rounds(
    contestants: Sequence[Server], artifact: Path, texts: list[str], options: Namespace, figures: dict[str, Any]
) -> None:
    for turn in range(options.rounds):
        for server in _rotated(contestants, turn):
            if server.name in figures["unavailable"]:
                continue
            say(f"round {turn + 1} of {options.rounds}: {server.name}, closed loops")
            try:
                with up(server, options.work) as running:
                    _closed_levels(running, texts, options, figures)
            except Unavailable as exc:
                figures["unavailable"][server.name] = str(exc)
                say(f"{server.name}: {exc}")
            if server.name == OURS:  # next to each other: what else the machine does then counts for both
                with bare_engine(artifact, texts, options) as bare:
                    figures["bare_texts_per_s"].append(_bare_rate(bare, options.seconds))


def _closed_levels(running: Up, texts: list[str], options: Namespace, figures: dict[str, Any]) -> None:
    server = running.server
    requests = [server.request(text) for text in texts]
    figures["labels"].setdefault(server.name, asyncio.run(_labels(running, texts[: options.checked])))
    asyncio.run(closed_loop(HOST, running.port, requests, clients=4, count=WARM_UP))
    levels = figures["closed"].setdefault(server.name, {})
    for clients in options.clients:
        load = asyncio.run(closed_loop(HOST, running.port, requests, clients=clients, seconds=options.seconds))
        levels.setdefault(str(clients), []).append(load.summary())


def _open_rounds(contestants: Sequence[Server], texts: list[str], options: Namespace, figures: dict[str, Any]) -> None:
    rates = {
        f"{fraction:g} of {name}": fraction * capacity(figures, name)
        for name in (OURS, ARTICLE)
        if name in figures["closed"]
        for fraction in options.fractions
    }
    figures["rates_per_s"] = rates
    for turn in range(options.open_rounds):
        for server in _rotated(contestants, turn):
            if server.name in figures["unavailable"]:
                continue
            say(f"round {turn + 1} of {options.open_rounds}: {server.name}, open loops")
            requests = [server.request(text) for text in texts]
            levels = figures["open"].setdefault(server.name, {})
            try:
                with up(server, options.work) as running:
                    asyncio.run(closed_loop(HOST, running.port, requests, clients=4, count=WARM_UP))
                    for number_, (name, rate) in enumerate(rates.items()):
                        if rate > capacity(figures, server.name):  # its queue would only grow
                            continue
                        schedule = poisson_schedule(rate, options.open_seconds, options.seed + 100 * turn + number_)
                        load = asyncio.run(open_loop(HOST, running.port, requests, schedule))
                        levels.setdefault(name, []).append(load.summary())
            except Unavailable as exc:
                figures["unavailable"][server.name] = str(exc)
                say(f"{server.name}: {exc}")


def capacity(figures: dict[str, Any], name: str) -> float:
    """Texts a second: the best of the closed loops' medians."""
    levels = figures["closed"].get(name, {})
    return max((median(turn["throughput_per_s"] for turn in turns) for turns in levels.values()), default=0.0)


def bare_engine(artifact: Path, texts: list[str], options: Namespace) -> AbstractContextManager[Worker]:
    path = (options.work / "texts.json").absolute()
    path.write_text(json.dumps(texts), encoding="utf-8")
    flags = ["--artifact", artifact, "--texts", path, "--threads", str(available_cpus())]
    return started("bare", flags, log=options.work / "logs" / "bare.log")


def _bare_rate(bare: Worker, seconds: float) -> float:
    """Texts a second over so many seconds, at least one turn."""
    turns: list[dict[str, Any]] = []
    while not turns or sum(turn["seconds"] for turn in turns) < seconds:
        turns.append(bare.run("all"))
    return float(sum(turn["texts"] for turn in turns) / sum(turn["seconds"] for turn in turns))


async def _labels(running: Up, texts: Sequence[str]) -> list[str]:
    pool = Pool(HOST, running.port)
    labels = []
    for text in texts:
        try:
            response = await pool.ask(running.server.request(text))
        except (OSError, ValueError) as exc:
            raise Unavailable(f"gives no answer: {exc}") from exc
        if response.status != 200:
            raise Unavailable(f"answers {response.status}: {response.body[:200].decode(errors='replace')}")
        labels.append(running.server.label(json.loads(response.body)))
    await pool.close()
    return labels


def _rotated(contestants: Sequence[Server], turn: int) -> list[Server]:
    shift = turn % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    best = {name: capacity(figures, name) for name in figures["closed"]}
    mine = best.get(OURS, float("nan"))
    rows: list[list[str | float | None]] = []
    truth = figures["labels"].get(OURS, [])
    for name, rate in best.items():
        same = sum(a == b for a, b in zip(figures["labels"][name], truth, strict=False))
        low = medians(figures["closed"][name][next(iter(figures["closed"][name]))])
        rows.append([name, rate, f"{mine / rate:.2f}" if rate else "-", low["p50_ms"], f"{same} of {len(truth)}"])
    rows += [[name, reason, None, None, None] for name, reason in figures["unavailable"].items()]
    bare = figures["bare_texts_per_s"]
    parts = [
        f"`{figures['artifact']}`, the first {figures['tokens']} tokens of each article, "
        f"{len(bare)} rounds, medians. Capacity: the best closed loop, texts/s.",
        "",
        table(["", "capacity", "ours is times as fast", "p50 ms, one client", "labels as ours"], rows),
        "",
        "Closed loops:",
        "",
        _levels(figures["closed"], "clients"),
        "",
        "Open loops, latency from the scheduled arrival:",
        "",
        _levels(figures["open"], "rate", figures["rates_per_s"]),
    ]
    saturated = figures["closed"].get(OURS, {}).get(str(SATURATING))
    if saturated and bare:
        ratio = median(turn["throughput_per_s"] / rate for turn, rate in zip(saturated, bare, strict=False))
        parts += [
            "",
            f"**Saturation:** with {SATURATING} clients the service gives {100 * ratio:.1f} % of the bare engine's "
            f"{number(median(bare))} texts/s.",
        ]
    return "\n".join(parts)


def _levels(results: dict[str, Any], what: str, rates: dict[str, float] | None = None) -> str:
    rows: list[list[str | float | None]] = []
    for name, levels in results.items():
        for level, turns in levels.items():
            merged = medians(turns)
            others = {
                status: sum(turn["statuses"].get(status, 0) for turn in turns)
                for status in dict.fromkeys(status for turn in turns for status in turn["statuses"])
                if status != "200"
            }
            shown = f"{level} ({number(rates[level])}/s)" if rates else level
            rows.append(
                [
                    name,
                    shown,
                    merged["throughput_per_s"],
                    merged.get("p50_ms"),
                    merged.get("p95_ms"),
                    merged.get("p99_ms"),
                    sum(turn["requests"] for turn in turns),
                    ", ".join(f"{n} {status}" for status, n in others.items()) or "-",
                ]
            )
    return table(["", what, "texts/s", "p50 ms", "p95 ms", "p99 ms", "requests", "not 200"], rows)


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--articles", type=int, default=200)
    arguments.add_argument(
        "--seconds", type=float, default=10.0, help="of one closed loop; its last answers come on top"
    )
    arguments.add_argument("--open-seconds", type=float, default=20.0, help="of one open loop")
    arguments.add_argument("--open-rounds", type=int, default=2)
    arguments.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    arguments.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS), help="of capacities")
    arguments.add_argument("--checked", type=int, default=20, help="texts whose labels are compared")
    options = arguments.parse_args()
    if options.quick:
        options.rounds = options.open_rounds = 1
        options.seconds, options.open_seconds, options.clients, options.fractions = 2.0, 3.0, [1, 8, 32], [0.5]
        options.articles, options.checked = 40, 5
    if not options.clients:
        raise BenchmarkError("--clients needs at least one number")
    figures = measure(options)
    save(options, "service", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
