"""This project's service beside three other servers over the same artifact: throughput and latency over HTTP.

    python -m benchmarks.service
    python -m benchmarks.service --artifact models/default --seconds 20

Every server reads the first 128 tokens of the same articles. In each round each of them is started, measured and
stopped in turn, beginning with another one each round. First come closed loops of 1 to 64 clients; then open loops,
Poisson arrivals at fractions of the capacity (the best throughput of the closed loops) of ours and of the article's
handler. The service's engine, without HTTP, runs in the same rounds.
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.runtimes import process
from benchmarks.servers.start import ARTICLE, ENVIRONMENTS, OURS, RunningServer, Server, servers, started
from benchmarks.tools.command_line import parser, run, save, say
from benchmarks.tools.errors import Unavailable
from benchmarks.tools.http1 import Lost
from benchmarks.tools.inputs import articles, resolve, truncating
from benchmarks.tools.load import Pool, closed_loop, open_loop
from benchmarks.tools.machine import command, describe
from benchmarks.tools.markdown import Cell, number, table
from benchmarks.tools.statistics import medians, poisson_schedule
from service.model.host import available_cpus

TOKENS = 128
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
FRACTIONS = (0.2, 0.5, 0.8, 0.95)
SATURATING = 32
"""Clients at which the service is compared with its engine alone."""

WARM_UP = 8
"""Requests before anything is measured."""


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures of all rounds."""
    artifact = truncating(resolve(options), TOKENS, options.work)
    texts = articles(options, options.articles, options.seed)
    figures: dict[str, Any] = {"artifact": artifact.name, "tokens": TOKENS, "machine": describe(), "command": command()}
    figures |= {name: {} for name in ("unavailable", "labels", "closed", "open")}
    figures |= {"engine_texts_per_s": [], "environments": ENVIRONMENTS}
    contestants = _available(artifact, options, figures)

    def in_rounds(rounds: int, what: str, use: Callable[[RunningServer, int], None]) -> None:
        for turn in range(rounds):
            for server in [*contestants[turn % len(contestants) :], *contestants[: turn % len(contestants)]]:
                if server.name in figures["unavailable"]:
                    continue
                say(f"round {turn + 1} of {rounds}: {server.name}, {what}")
                try:
                    with started(server, options.work) as running:
                        use(running, turn)
                except Unavailable as exc:
                    _give_up(figures, server.name, exc)
                if server.name == OURS and what == "closed loops":
                    # directly after it: whatever else the machine does then slows both down
                    with service_engine(artifact, texts, options) as engine:
                        figures["engine_texts_per_s"].append(_engine_rate(engine, options.seconds))

    in_rounds(options.rounds, "closed loops", lambda running, _: _closed_loops(running, texts, options, figures))
    figures["rates_per_s"] = {
        f"{fraction:g} of {name}": fraction * capacity(figures, name)
        for name in (OURS, ARTICLE)
        if name in figures["closed"]
        for fraction in options.fractions
    }
    in_rounds(options.open_rounds, "open loops", lambda running, n: _open_loops(running, texts, options, figures, n))
    return figures


def _available(artifact: Path, options: Namespace, figures: dict[str, Any]) -> list[Server]:
    made = []
    for name, make in servers(artifact, TOKENS, options.work).items():
        try:
            made.append(make())
        except Unavailable as exc:
            _give_up(figures, name, exc)
    return made


def _give_up(figures: dict[str, Any], name: str, reason: Unavailable) -> None:
    figures["unavailable"][name] = str(reason)
    say(f"{name}: {reason}")


def _closed_loops(running: RunningServer, texts: list[str], options: Namespace, figures: dict[str, Any]) -> None:
    server = running.server
    requests = [server.request(text) for text in texts]
    figures["labels"].setdefault(server.name, asyncio.run(_labels(running, texts[: options.checked])))
    asyncio.run(closed_loop(running.port, requests, clients=4, count=WARM_UP))
    levels = figures["closed"].setdefault(server.name, {})
    for clients in options.clients:
        load = asyncio.run(closed_loop(running.port, requests, clients=clients, seconds=options.seconds))
        levels.setdefault(str(clients), []).append(load.summary())


def _open_loops(
    running: RunningServer, texts: list[str], options: Namespace, figures: dict[str, Any], turn: int
) -> None:
    server = running.server
    requests = [server.request(text) for text in texts]
    asyncio.run(closed_loop(running.port, requests, clients=4, count=WARM_UP))
    levels = figures["open"].setdefault(server.name, {})
    for place, (name, rate) in enumerate(figures["rates_per_s"].items()):
        if rate <= capacity(figures, server.name):  # above it, the server's queue would only grow
            schedule = poisson_schedule(rate, options.open_seconds, options.seed + 100 * turn + place)
            levels.setdefault(name, []).append(asyncio.run(open_loop(running.port, requests, schedule)).summary())


def capacity(figures: Mapping[str, Any], name: str) -> float:
    """Return a server's texts per second: the best of the closed loops' medians."""
    levels = figures["closed"].get(name, {})
    return max((median(turn["throughput_per_s"] for turn in turns) for turns in levels.values()), default=0.0)


def service_engine(
    artifact: Path, texts: list[str], options: Namespace
) -> AbstractContextManager[process.RuntimeProcess]:
    """Start the service's engine without the service; its turns are `all` or the number of a text."""
    path = (options.work / "texts.json").absolute()
    path.write_text(json.dumps(texts), encoding="utf-8")
    settings = {"artifact": artifact, "texts": path, "threads": available_cpus()}
    return process.started("service_engine", settings, log=options.work / "logs" / "service-engine.log")


def _engine_rate(engine: process.RuntimeProcess, seconds: float) -> float:
    """Return texts per second over so many seconds, at least one turn."""
    turns: list[dict[str, Any]] = []
    while not turns or sum(turn["seconds"] for turn in turns) < seconds:
        turns.append(engine.run("all"))
    return float(sum(turn["texts"] for turn in turns) / sum(turn["seconds"] for turn in turns))


async def _labels(running: RunningServer, texts: Sequence[str]) -> list[str]:
    pool = Pool(running.port)
    labels = []
    for text in texts:
        try:
            response = await pool.ask(running.server.request(text))
        except Lost as exc:
            raise Unavailable(f"gives no answer: {exc}") from exc
        if response.status != 200:
            raise Unavailable(f"answers {response.status}: {response.body[:200].decode(errors='replace')}")
        labels.append(running.server.label(json.loads(response.body)))
    pool.close()
    return labels


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    best = {name: capacity(figures, name) for name in figures["closed"]}
    truth = figures["labels"].get(OURS, [])
    rows: list[list[Cell]] = []
    for name, rate in best.items():
        same = sum(a == b for a, b in zip(figures["labels"][name], truth, strict=False))
        one_client = medians(next(iter(figures["closed"][name].values())))
        ratio = f"{best.get(OURS, float('nan')) / rate:.2f}" if rate else "-"
        rows.append([name, rate, ratio, one_client["p50_ms"], f"{same} of {len(truth)}"])
    rows += [[name, reason, None, None, None] for name, reason in figures["unavailable"].items()]
    engine = figures["engine_texts_per_s"]
    parts = [
        f"`{figures['artifact']}`, the first {figures['tokens']} tokens of each article, {len(engine)} rounds, medians."
        " Capacity: the best closed loop, texts/s.",
        table(["", "capacity", "ours is times as fast", "p50 ms, one client", "labels as ours"], rows),
        "Closed loops:",
        _levels(figures["closed"], "clients"),
        "Open loops, latency from the scheduled arrival:",
        _levels(figures["open"], "rate", figures["rates_per_s"]),
    ]
    saturated = figures["closed"].get(OURS, {}).get(str(SATURATING))
    if saturated and engine:
        ratio = median(turn["throughput_per_s"] / rate for turn, rate in zip(saturated, engine, strict=False))
        parts.append(
            f"**Saturation:** with {SATURATING} clients the service gives {100 * ratio:.1f} % of the "
            f"{number(median(engine))} texts/s of its engine alone."
        )
    return "\n\n".join(parts)


def _levels(results: Mapping[str, Any], what: str, rates: Mapping[str, float] | None = None) -> str:
    rows: list[list[Cell]] = []
    for name, levels in results.items():
        for level, turns in levels.items():
            merged = medians(turns)
            others = {status: 0 for turn in turns for status in turn["statuses"] if status != "200"}
            counts = (f"{sum(turn['statuses'].get(each, 0) for turn in turns)} {each}" for each in others)
            shown = f"{level} ({number(rates[level])}/s)" if rates else level
            latencies = [merged.get(f"p{q}_ms") for q in (50, 95, 99)]
            total = sum(turn["requests"] for turn in turns)
            rows.append([name, shown, merged["throughput_per_s"], *latencies, total, ", ".join(counts) or "-"])
    return table(["", what, "texts/s", "p50 ms", "p95 ms", "p99 ms", "requests", "not 200"], rows)


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--articles", type=int, default=200)
    arguments.add_argument("--seconds", type=float, default=10.0, help="of one closed loop until its last request")
    arguments.add_argument("--open-seconds", type=float, default=20.0, help="of one open loop")
    arguments.add_argument("--open-rounds", type=int, default=2)
    arguments.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    arguments.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS), help="of the capacities")
    arguments.add_argument("--checked", type=int, default=20, help="texts whose labels are compared")
    options = arguments.parse_args()
    if options.quick:
        options.rounds = options.open_rounds = 1
        options.seconds, options.open_seconds, options.clients, options.fractions = 2.0, 3.0, [1, 8, 32], [0.5]
        options.articles, options.checked = 40, 5
    figures = measure(options)
    save(options, "service", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
