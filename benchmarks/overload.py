"""What this project's service does when far too much is asked of it, and for a short text beside a flood of long ones.

    python -m benchmarks.overload --seconds 60 --times 10

1. Its capacity over HTTP, then an open loop at a multiple of it: what was answered and how fast, what was refused, and
   whether each refusal says when to come again.
2. /batch requests of texts of 1024 tokens, as many as it takes to never let the model rest: first alone, which gives
   the time of one full batch by the service's own /metrics; then short texts at /predict beside them.
"""

import asyncio
import json
import resource
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from benchmarks.artifacts import articles, long_texts, resolve
from benchmarks.errors import BenchmarkError
from benchmarks.figures import poisson_schedule
from benchmarks.load import Pool, Request, closed_loop, open_loop
from benchmarks.machine import command, describe
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT
from benchmarks.servers import Server, Up, ours, up
from benchmarks.tables import number, table
from classifier.artifact import read_artifact

HOST = "127.0.0.1"
CAPACITY_CLIENTS = 32
LONG_TOKENS = 1024
LONG_TEXTS = 8
"""In one /batch request."""
FLOOD_CLIENTS = 4
SHORT_TEXT = "The striker scored twice in the second half and the visitors won the cup tie."
SERVER_DEADLINE_S = 30.0
"""SERVICE_DEFAULT_TIMEOUT_MS, set for the measured service so that the figures do not depend on the default."""


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures of both parts."""
    _allow_many_connections(options.in_flight)
    artifact = resolve(options.artifact, options)
    server = ours(artifact, default_timeout_ms=str(int(1000 * SERVER_DEADLINE_S)))
    sample = articles(options.data, 200, options.seed)
    long = long_texts(sample, read_artifact(artifact).encoder(), LONG_TOKENS, LONG_TEXTS)
    figures: dict[str, Any] = {"artifact": artifact.name, "machine": describe(), "command": command()}
    requests = _different(server, sample, 2_000)
    with up(server, options.work) as running:
        say("capacity")
        asyncio.run(closed_loop(HOST, running.port, requests, clients=4, count=8))
        clients, seconds = CAPACITY_CLIENTS, options.capacity_seconds
        capacity = asyncio.run(closed_loop(HOST, running.port, requests, clients=clients, seconds=seconds)).summary()
        rate = options.times * capacity["throughput_per_s"]
        if not rate:
            raise BenchmarkError(f"the service answered nothing: {capacity['statuses']}")
        say(f"{options.seconds:.0f} s at {rate:.0f} texts/s")
        schedule = poisson_schedule(rate, options.seconds, options.seed)
        requests = _different(server, sample, len(schedule))
        load = open_loop(HOST, running.port, requests, schedule, max_in_flight=options.in_flight)
        overloaded = asyncio.run(load).summary()
        healthy = asyncio.run(_status(running, "/readyz"))
    figures["overload"] = {
        "capacity": capacity,
        "rate_per_s": rate,
        "times": options.times,
        "seconds": options.seconds,
        "deadline_s": SERVER_DEADLINE_S,
        "load": overloaded,
        "of_capacity": overloaded["throughput_per_s"] / capacity["throughput_per_s"],
        "readyz_afterwards": healthy,
    }
    with up(server, options.work) as running:
        figures["flood"] = asyncio.run(_flood(running, long, options.flood_seconds))
    return figures


def _different(server: Server, texts: list[str], count: int) -> list[Request]:
    """So many requests for texts that begin with their number: the service computes equal texts in flight once."""
    return [server.request(f"{i}. {texts[i % len(texts)]}") for i in range(count)]


async def _flood(running: Up, long: list[str], seconds: float) -> dict[str, Any]:
    bulk = [_bulk([f"{request} {i} {text}" for i, text in enumerate(long)]) for request in range(500)]
    short = [running.server.request(f"{i}. {SHORT_TEXT}") for i in range(2_000)]
    say("short texts alone")
    alone = await closed_loop(HOST, running.port, short, clients=1, seconds=min(seconds, 5.0))
    say("long texts alone")
    before = await metrics(running)
    flooding = await closed_loop(HOST, running.port, bulk, clients=FLOOD_CLIENTS, seconds=seconds)
    after = await metrics(running)
    change = {name: after[name] - before.get(name, 0.0) for name in after}
    batches = change["classifier_inference_seconds_count"]
    if not batches:
        raise BenchmarkError(f"the service computed nothing under the flood: {flooding.summary()['statuses']}")
    say("short texts beside long ones")
    beside, flooding_too = await asyncio.gather(
        closed_loop(HOST, running.port, short, clients=1, seconds=seconds),
        closed_loop(HOST, running.port, bulk, clients=FLOOD_CLIENTS, seconds=seconds),
    )
    batch_s = change["classifier_inference_seconds_sum"] / batches
    return {
        "full_batch_s": batch_s,
        "full_batch_tokens": change["classifier_batch_tokens_sum"] / batches,
        "batches": batches,
        "alone": alone.summary(),
        "beside": beside.summary(),
        "bulk": flooding.summary(),
        "bulk_beside": flooding_too.summary(),
        "p95_batches": beside.summary()["p95_ms"] / 1000 / batch_s,
    }


def _bulk(texts: list[str]) -> Request:
    body = {"texts": texts, "timeout_ms": int(1000 * SERVER_DEADLINE_S)}
    return Request("/batch", json.dumps(body, ensure_ascii=False).encode())


async def metrics(running: Up) -> dict[str, float]:
    """The service's own figures that have no label."""
    pool = Pool(HOST, running.port)
    response = await pool.ask(Request("/metrics"))
    await pool.close()
    return parse_metrics(response.body.decode())


def parse_metrics(page: str) -> dict[str, float]:
    """Prometheus' text format, series without labels only."""
    values = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if not line.startswith("#") and "{" not in name and value:
            values[name] = float(value)
    return values


async def _status(running: Up, path: str) -> int:
    pool = Pool(HOST, running.port)
    try:
        return (await pool.ask(Request(path))).status
    finally:
        await pool.close()


def _allow_many_connections(in_flight: int) -> None:
    """Each request in flight is a file descriptor, here and in the service, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = in_flight + 1024
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise BenchmarkError(f"--in-flight {in_flight} needs {wanted} open files, the limit is {hard} (ulimit -n)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    over, flood = figures["overload"], figures["flood"]
    load = over["load"]
    rows: list[list[str | float | None]] = [
        ["asked", load["requests"]],
        ["429 without Retry-After", load["without_retry_after"]],
        ["accepted, texts/s", load["throughput_per_s"]],
        ["accepted, of capacity", f"{100 * over['of_capacity']:.0f} %"],
        ["accepted, p50 s", _seconds(load["p50_ms"])],
        ["accepted, p99 s", _seconds(load["p99_ms"])],
        ["accepted, longest s", _seconds(load["max_ms"])],
        ["deadline s", over["deadline_s"]],
        ["/readyz afterwards", str(over["readyz_afterwards"])],
    ]
    rows[1:1] = [[f"answered {status}", count] for status, count in _words(load["statuses"]).items()]
    parts = [
        f"`{figures['artifact']}`. Capacity with {CAPACITY_CLIENTS} clients: "
        f"{number(over['capacity']['throughput_per_s'])} texts/s. Then {over['times']:g} times that for "
        f"{over['seconds']:.0f} s:",
        "",
        table(["", ""], rows),
        "",
        f"A short text beside {FLOOD_CLIENTS} clients that send {LONG_TEXTS} texts of {LONG_TOKENS} tokens in each "
        f"/batch request. One full batch ({number(flood['full_batch_tokens'])} tokens on average) takes the model "
        f"{flood['full_batch_s']:.3f} s, by /metrics.",
        "",
        table(
            ["", "p50 ms", "p95 ms", "p99 ms", "requests", "p95, full batches"],
            [
                _flood_row("short text alone", flood["alone"], flood["full_batch_s"]),
                _flood_row("short text beside the flood", flood["beside"], flood["full_batch_s"]),
                _flood_row("flood's requests", flood["bulk_beside"], flood["full_batch_s"]),
            ],
        ),
    ]
    return "\n".join(parts)


def _flood_row(name: str, summary: Mapping[str, Any], batch_s: float) -> list[str | float | None]:
    times = f"{summary['p95_ms'] / 1000 / batch_s:.2f}"
    return [name, summary["p50_ms"], summary["p95_ms"], summary["p99_ms"], summary["requests"], times]


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f}"


def _words(statuses: Mapping[str, int]) -> dict[str, int]:
    return {{"failed": "by nothing (cut or refused)", "unsent": "not sent"}.get(k, k): v for k, v in statuses.items()}


def main() -> None:
    arguments = parser(__doc__, artifact=str(ROOT / "models" / "default"), rounds=1)
    arguments.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    arguments.add_argument("--times", type=float, default=10.0, help="the capacity")
    arguments.add_argument("--capacity-seconds", type=float, default=15.0)
    arguments.add_argument("--flood-seconds", type=float, default=30.0, help="of each of its two parts")
    arguments.add_argument("--in-flight", type=int, default=8192, help="requests at most; further ones are not sent")
    options = arguments.parse_args()
    if options.quick:
        options.seconds, options.capacity_seconds, options.flood_seconds = 5.0, 3.0, 6.0
    figures = measure(options)
    save(options, "overload", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
