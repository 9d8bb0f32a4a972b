"""This project's service under far more load than its capacity, and short texts beside many long ones.

    python -m benchmarks.overload --seconds 60 --times 10

1. Its capacity over HTTP, then an open loop at a multiple of it: what was answered and how fast, what was refused, and
   whether each refusal says when to try again.
2. Short texts at /predict: first alone, then beside other callers of /predict whose texts have 1024 tokens, enough of
   them to keep the model busy. /metrics gives the time of one batch, measured while there are long texts only.
"""

import asyncio
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from benchmarks.servers.start import RunningServer, Server, ours, started
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, parser, run, run_part, say
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.http1 import get
from benchmarks.tools.inputs import articles, long_texts, resolve
from benchmarks.tools.load import Pool, allow_connections, closed_loop, metrics, open_loop
from benchmarks.tools.markdown import Cell, number, table
from benchmarks.tools.statistics import poisson_schedule
from classifier.artifact import read_artifact

CAPACITY_CLIENTS = 32
LONG_TOKENS = 1024
LONG_TEXTS = 8
FLOOD_CLIENTS = 32
SHORT_TEXT = "The striker scored twice in the second half and the visitors won the cup tie."
DEADLINE_MS = 30_000
"""SERVICE_DEFAULT_TIMEOUT_MS of the measured service, set so that the figures do not depend on the default."""


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures of both parts."""
    allow_connections(options.in_flight)
    artifact = resolve(options)
    server = ours(artifact, default_timeout_ms=str(DEADLINE_MS))
    sample = articles(options, 200, options.seed)
    long = long_texts(sample, read_artifact(artifact).encoder(), LONG_TOKENS, LONG_TEXTS)
    figures: dict[str, Any] = {"artifact": artifact.name}
    with started(server, options.work) as running:
        figures["overload"] = _overload(running, sample, options)
    with started(server, options.work) as running:
        figures["flood"] = asyncio.run(_flood(running, long, options.flood_seconds))
    return figures


def _overload(running: RunningServer, sample: list[str], options: Namespace) -> dict[str, Any]:
    port, server = running.port, running.server
    say("capacity")
    requests = _different(server, sample, 2_000)
    asyncio.run(closed_loop(port, requests, clients=4, count=8))
    load = closed_loop(port, requests, clients=CAPACITY_CLIENTS, seconds=options.capacity_seconds)
    capacity = asyncio.run(load).summary()
    rate = options.times * capacity["throughput_per_s"]
    if not rate:
        raise BenchmarkError(f"the service answered nothing: {capacity['statuses']}")
    say(f"{options.seconds:.0f} s at {rate:.0f} texts/s")
    schedule = poisson_schedule(rate, options.seconds, options.seed)
    load = open_loop(port, _different(server, sample, len(schedule)), schedule, max_in_flight=options.in_flight)
    overloaded = asyncio.run(load).summary()
    return {
        "capacity": capacity,
        "rate_per_s": rate,
        "times": options.times,
        "seconds": options.seconds,
        "load": overloaded,
        "of_capacity": overloaded["throughput_per_s"] / capacity["throughput_per_s"],
        "readyz_afterwards": asyncio.run(Pool(port).ask(get("/readyz"))).status,
    }


def _different(server: Server, texts: list[str], count: int) -> list[bytes]:
    """Return requests for texts that begin with their number: the service computes equal texts in flight only once."""
    return [server.request(f"{i}. {texts[i % len(texts)]}") for i in range(count)]


async def _flood(running: RunningServer, long: list[str], seconds: float) -> dict[str, Any]:
    port = running.port
    flood = _different(running.server, long, 500)
    short = _different(running.server, [SHORT_TEXT], 2_000)
    say("short texts alone")
    alone = await closed_loop(port, short, clients=1, seconds=min(seconds, 5.0))
    say("long texts alone")
    names = ("inference_seconds_count", "inference_seconds_sum", "batch_tokens_sum")
    before = await metrics(port, *names)
    await closed_loop(port, flood, clients=FLOOD_CLIENTS, seconds=min(seconds, 5.0))
    batches, busy_s, tokens = (now - then for now, then in zip(await metrics(port, *names), before, strict=True))
    say("short texts beside long ones")
    beside, flooding = await asyncio.gather(
        closed_loop(port, short, clients=1, seconds=seconds),
        closed_loop(port, flood, clients=FLOOD_CLIENTS, seconds=seconds),
    )
    if not batches:
        raise BenchmarkError(f"the service computed nothing under the flood: {flooding.summary()['statuses']}")
    return {
        "batch_s": busy_s / batches,
        "batch_tokens": tokens / batches,
        "short text alone": alone.summary(),
        "short text beside the flood": beside.summary(),
        "flood's requests": flooding.summary(),
    }


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    over, flood = figures["overload"], figures["flood"]
    load = over["load"]
    rows: list[list[Cell]] = [
        ["asked", load["requests"]],
        *([f"answered {each}" if each.isdigit() else each, n] for each, n in load["statuses"].items()),
        ["429 without Retry-After", load["without_retry_after"]],
        ["accepted, texts/s", load["throughput_per_s"]],
        ["accepted, of capacity", f"{100 * over['of_capacity']:.0f} %"],
        ["accepted, p50 s", f"{load['p50_ms'] / 1000:.2f}"],
        ["accepted, p99 s", f"{load['p99_ms'] / 1000:.2f}"],
        ["accepted, longest s", f"{load['max_ms'] / 1000:.2f}"],
        ["deadline s", DEADLINE_MS / 1000],
        ["/readyz afterwards", str(over["readyz_afterwards"])],
    ]
    short = [_flood_row(name, each, flood["batch_s"]) for name, each in flood.items() if isinstance(each, dict)]
    return "\n\n".join(
        [
            f"`{figures['artifact']}`. Capacity with {CAPACITY_CLIENTS} clients: "
            f"{number(over['capacity']['throughput_per_s'])} texts/s. Then {over['times']:g} times that for "
            f"{over['seconds']:.0f} s:",
            table(["", ""], rows),
            f"A short text beside {FLOOD_CLIENTS} clients that send texts of {LONG_TOKENS} tokens. One batch "
            f"({number(flood['batch_tokens'])} tokens on average) takes the model "
            f"{flood['batch_s']:.3f} s according to /metrics.",
            table(["", "p50 ms", "p95 ms", "p99 ms", "requests", "p95 in batches"], short),
        ]
    )


def _flood_row(name: str, summary: Mapping[str, Any], batch_s: float) -> list[Cell]:
    latencies = [summary[f"p{q}_ms"] for q in (50, 95, 99)]
    return [name, *latencies, summary["requests"], f"{summary['p95_ms'] / 1000 / batch_s:.2f}"]


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, artifact=DEFAULT_ARTIFACT, rounds=1)
    arguments.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    arguments.add_argument("--times", type=float, default=10.0, help="the overload as a multiple of the capacity")
    arguments.add_argument("--capacity-seconds", type=float, default=15.0)
    arguments.add_argument("--flood-seconds", type=float, default=30.0, help="of the flood of long texts")
    arguments.add_argument("--in-flight", type=int, default=8192, help="most requests in flight; others are not sent")
    run_part(arguments, "overload", measure, report, seconds=5.0, capacity_seconds=3.0, flood_seconds=6.0)


if __name__ == "__main__":
    run(main)
