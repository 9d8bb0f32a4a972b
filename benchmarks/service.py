"""This project's service beside three other servers over the same artifact: throughput and latency over HTTP.

    python -m benchmarks.service
    python -m benchmarks.service --artifact models/default --seconds 20

Every server reads the first 128 tokens of the same articles. In each round each of them is started, measured and
stopped in turn, beginning with another one each round. First come closed loops of 1 to 64 clients; then open loops,
Poisson arrivals at fractions of the capacity (the best throughput of the closed loops) of ours and of the article's
handler. /metrics says how much of the time our model is busy.
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.servers.start import ARTICLE, ENVIRONMENTS, OURS, RunningServer, Server, servers, started
from benchmarks.tools.command_line import parser, run, run_part, say
from benchmarks.tools.errors import Unavailable
from benchmarks.tools.http1 import Lost
from benchmarks.tools.inputs import articles, resolve, truncating
from benchmarks.tools.load import Load, Pool, closed_loop, metrics, open_loop
from benchmarks.tools.markdown import Cell, number, table
from benchmarks.tools.statistics import medians, poisson_schedule

TOKENS = 128
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
FRACTIONS = (0.2, 0.5, 0.8, 0.95)
SATURATING = 32
"""Clients that should keep the model of our service busy all the time."""

WARM_UP = 8
"""Requests before anything is measured."""


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures of all rounds."""
    artifact = truncating(resolve(options), TOKENS, options.work)
    texts = articles(options, options.articles, options.seed)
    figures: dict[str, Any] = {"artifact": artifact.name, "tokens": TOKENS}
    figures |= {name: {} for name in ("unavailable", "labels", "closed", "open")}
    figures |= {"environments": ENVIRONMENTS, "busy": []}
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
        load, busy_s = asyncio.run(_closed_loop(running, requests, clients, options.seconds))
        levels.setdefault(str(clients), []).append(load.summary())
        if server.name == OURS and clients == SATURATING:
            figures["busy"].append(busy_s / load.seconds)


async def _closed_loop(
    running: RunningServer, requests: list[bytes], clients: int, seconds: float
) -> tuple[Load, float]:
    """Return the load of a closed loop, and the seconds in which our service's model was busy (NaN for others)."""
    name = "inference_seconds_sum"
    [before] = await metrics(running.port, name) if running.server.name == OURS else (float("nan"),)
    load = await closed_loop(running.port, requests, clients=clients, seconds=seconds)
    [after] = await metrics(running.port, name) if running.server.name == OURS else (float("nan"),)
    return load, after - before


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
    rounds = max((len(turns) for levels in figures["closed"].values() for turns in levels.values()), default=0)
    parts = [
        f"`{figures['artifact']}`, the first {figures['tokens']} tokens of each article, {rounds} rounds, medians."
        " Capacity: the best closed loop, texts/s.",
        table(["", "capacity", "ours is times as fast", "p50 ms, one client", "labels as ours"], rows),
        "Closed loops:",
        _levels(figures["closed"], "clients"),
        "Open loops, latency from the scheduled arrival:",
        _levels(figures["open"], "rate", figures["rates_per_s"]),
    ]
    if figures["busy"]:
        share = 100 * median(figures["busy"])
        parts.append(
            f"**Saturation:** with {SATURATING} clients the model of our service is busy {share:.1f} % of the time."
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
    quick = {"seconds": 2.0, "clients": [1, 8, 32], "open_seconds": 3.0, "open_rounds": 1, "fractions": [0.5]}
    run_part(arguments, "service", measure, report, rounds=1, articles=40, checked=5, **quick)


if __name__ == "__main__":
    run(main)
