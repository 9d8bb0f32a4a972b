"""Mixed requests in closed loop against the real service, faults among them, and the verdict at the end.

The service runs with the engine of `benchmarks.faulty_service`. Before the soak every text is asked alone, one after
the other; each later answer is compared with that. Memory counts from when it has settled, after a tenth of all
requests: the allocator's arenas, caches of compiled patterns and the log's buffers have their size by then.
"""

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.machine import describe
from benchmarks.options import say
from benchmarks.processes import free_port, running, wait_for_status
from benchmarks.soak import answers
from benchmarks.soak.answers import TOLERANCE, Known, problem
from benchmarks.soak.asks import Ask, Caller, Model, stream
from benchmarks.soak.ledger import Ledger, Promise
from benchmarks.soak.texts import make_texts
from benchmarks.soak.watch import Sample, cpu_seconds, growth, sample
from benchmarks.soak.wire import Connection, Lost, get, post_json
from benchmarks.soak.wrongs import Troublemaker

HOST = "127.0.0.1"
START_S = 180.0
STOP_S = 30.0
IDLE_S = 30.0
"""Seconds that queue, connections and threads have to be gone after the last answer."""

EVERY_S = 1.0
"""Between samples of the process."""

SAY_EVERY_S = 10.0
MAX_BODY_BYTES = 100_000
"""SERVICE_MAX_BODY_BYTES of the soaked service, so that too large a body costs the soak little."""

MAX_GROWTH = 0.02
JUDGED_FROM = 20_000
"""Requests from which on the memory's growth is judged: before, a tenth of them has not settled it."""

SPARE_DESCRIPTORS = 2
"""The interpreter may open some later than at the start."""


def soak(options: Namespace) -> tuple[dict[str, Any], list[Promise]]:
    """Figures and promises of one soak.

    Raises:
        BenchmarkError: the service does not start, or a text alone is not answered.
    """
    log: Path = options.work / "soak.log"
    port = free_port()
    environment = {
        "SERVICE_PORT": str(port),
        "SERVICE_MODEL_DIR": str(options.artifact),
        "SERVICE_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    say(f"starting the service; its log is {log}")
    with running([sys.executable, "-m", "benchmarks.faulty_service"], log=log, environment=environment) as process:
        wait_for_status(process, port, "/readyz", limit_s=START_S, every_s=0.1)
        figures, promises = asyncio.run(_Soak(options, process, port).run())
        promises.append(_stops(process, log))
    figures |= {"machine": describe(), "log_mb": round(log.stat().st_size / 1e6, 1)}
    return figures, promises


class _Soak:
    """One soak's state."""

    def __init__(self, options: Namespace, process: subprocess.Popen[bytes], port: int) -> None:
        self._options = options
        self._process = process
        self._port = port
        self._samples: list[Sample] = []
        self._ledger = Ledger(0.0)

    async def run(self) -> tuple[dict[str, Any], list[Promise]]:
        options, control = self._options, Connection(HOST, self._port)
        info = json.loads((await control.ask(get("/info"), last=True)).body)
        model = Model(info["model"]["name"], info["model"]["labels"], info["limits"]["max_body_bytes"])
        self._ledger.tolerance = TOLERANCE[info["model"]["precision"]]
        say(f"asking {options.texts} texts alone")
        known = await alone(control, make_texts(options.texts, options.seed))
        at_rest = sample(self._process.pid, 0)
        rng = random.Random(options.seed)
        caller = Caller(known, model, rng)
        asks = stream([*caller.kinds(), *Troublemaker(caller).kinds()], options.requests, rng)
        say(f"{options.requests} requests by {options.clients} clients")
        own_cpu, started = time.process_time(), time.perf_counter()
        watcher = asyncio.create_task(self._watch(started))
        try:
            await asyncio.gather(*(self._client(asks) for _ in range(options.clients)))
        finally:
            watcher.cancel()
        seconds, own_cpu = time.perf_counter() - started, time.process_time() - own_cpu
        after = await self._settled(control, at_rest)
        repeated = await alone(control, [one.text for one in known[: min(100, len(known))]])
        metrics = (await control.ask(get("/metrics"), last=True)).body.decode()
        return self._figures(info, seconds, own_cpu, at_rest, after, metrics), [
            *self._ledger.promises(),
            _same(known, repeated, self._ledger.tolerance),
            *self._resources(at_rest, after),
            _queue_empty(metrics),
        ]

    async def _client(self, asks: Iterator[Ask]) -> None:
        connection, ledger = Connection(HOST, self._port), self._ledger
        for ask in asks:
            ledger.send(ask)
            if ask.leaving:
                how = ask.leaving
                await connection.leave(ask.wire, after_s=how.after_s, after_answer_began=how.after_answer_began)
                ledger.leave()
                continue
            sent = time.perf_counter()
            try:
                response = await connection.ask(ask.wire, last=ask.last)
            except Lost as exc:
                ledger.lose(ask, str(exc))
                if self._process.poll() is not None:  # nobody is left to be asked
                    return
                continue
            ledger.answer(ask, response, time.perf_counter() - sent)
        connection.drop()

    async def _watch(self, started: float) -> None:
        """Sample the process; say how far the soak is."""
        said = started
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                now = sample(self._process.pid, self._ledger.done)
            except OSError:
                continue
            self._samples.append(now)
            if time.perf_counter() - said >= SAY_EVERY_S:
                said = time.perf_counter()
                say(_progress(self._ledger, now, said - started, self._options.requests))

    async def _settled(self, control: Connection, at_rest: Sample) -> Sample:
        """The process once nothing is under way any more, or after `IDLE_S`."""
        deadline = time.monotonic() + IDLE_S
        while True:
            metrics = (await control.ask(get("/metrics"), last=True)).body.decode()
            now = sample(self._process.pid, self._ledger.done)
            idle = (
                not gauge(metrics, "classifier_queue_windows")
                and now.descriptors <= at_rest.descriptors + SPARE_DESCRIPTORS
            )
            if idle or time.monotonic() > deadline:
                return now
            await asyncio.sleep(0.1)

    def _figures(
        self, info: dict[str, Any], seconds: float, own_cpu: float, at_rest: Sample, after: Sample, metrics: str
    ) -> dict[str, Any]:
        service_cpu = cpu_seconds(self._process.pid) - at_rest.cpu_s
        return {
            "model": {
                key: info["model"][key] for key in ("name", "version", "precision", "threads", "max_batch_tokens")
            },
            "clients": self._options.clients,
            "texts": self._options.texts,
            "seed": self._options.seed,
            "seconds": seconds,
            "requests_per_s": self._ledger.done / seconds,
            "texts_per_s": gauge(metrics, "classifier_texts_total") / seconds,
            "cpu_s": {"service": service_cpu, "clients": own_cpu},
            **self._ledger.summary(),
            "rss_mib": {
                "at_rest": at_rest.rss_kib / 1024,
                "settled": self._settled_mib(),
                "after": after.rss_kib / 1024,
                "growth": self._growth(),
            },
            "samples": [vars(one) for one in _thinned(self._samples, 200)],
        }

    def _settled_after(self) -> int:
        return int(self._options.requests) // 10

    def _growth(self) -> float | None:
        return growth(self._samples, self._settled_after())

    def _settled_mib(self) -> float | None:
        settled = [one.rss_kib for one in self._samples if one.done >= self._settled_after()]
        return settled[0] / 1024 if settled else None

    def _resources(self, at_rest: Sample, after: Sample) -> list[Promise]:
        settled = [one for one in self._samples if one.done >= self._settled_after()]
        threads = max((one.threads for one in settled[:1]), default=at_rest.threads)
        grown = self._growth()
        judged = self._options.requests >= JUDGED_FROM
        shown = "too few samples" if grown is None else f"{100 * grown:+.2f} %, {100 * MAX_GROWTH:.0f} % are allowed"
        return [
            Promise(
                f"memory stays what it is after {self._settled_after()} requests",
                not judged or (grown is not None and grown <= MAX_GROWTH),
                shown if judged else f"{shown}; not judged below {JUDGED_FROM} requests",
            ),
            Promise(
                "no descriptor is left open",
                after.descriptors <= at_rest.descriptors + SPARE_DESCRIPTORS,
                f"{at_rest.descriptors} before, {after.descriptors} after",
            ),
            Promise("no thread is left", after.threads <= threads, f"{threads} settled, {after.threads} after"),
        ]


async def alone(connection: Connection, texts: list[str]) -> list[Known]:
    """Each text's answer, with nothing else in the service. Closes the connection: it may be idle for long then."""
    known = []
    for text in texts:
        response = await connection.ask(post_json("/predict", {"text": text}))
        if response.status != 200:
            raise BenchmarkError(f"a text alone got {response.status}: {response.body[:200]!r}")
        [scores] = answers.predict(response.body)
        assert not isinstance(scores, str)
        known.append(Known(text, {label: score for label, score in scores.items() if score is not None}))
    connection.drop()
    return known


def _same(known: list[Known], repeated: list[Known], tolerance: float) -> Promise:
    """The model answers after the soak what it answered before."""
    changed = 0
    for before, after in zip(known, repeated, strict=False):
        body = json.dumps({"scores": [{"label": label, "score": score} for label, score in after.scores.items()]})
        changed += problem(body.encode(), answers.predict, [before], tolerance) is not None
    return Promise("texts alone are answered as before", not changed, f"{changed} of {len(repeated)} changed")


def _queue_empty(metrics: str) -> Promise:
    items, tokens = gauge(metrics, "classifier_queue_windows"), gauge(metrics, "classifier_queue_tokens")
    return Promise("nothing is left in the queue", not items and not tokens, f"{items:g} windows, {tokens:g} tokens")


def _stops(process: subprocess.Popen[bytes], log: Path) -> Promise:
    """SIGTERM ends the service with exit code 0."""
    started = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        return Promise("SIGTERM ends it", False, f"still there after {STOP_S:.0f} s")
    critical = sum(b'"level": "critical"' in line for line in log.read_bytes().splitlines())
    found = f"exit code {code} after {time.perf_counter() - started:.1f} s, {critical} critical lines in its log"
    return Promise("SIGTERM ends it, and it never logged anything critical", code == 0 and not critical, found)


def gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def _thinned(samples: list[Sample], most: int) -> list[Sample]:
    return samples[:: len(samples) // most + 1]


def _progress(ledger: Ledger, now: Sample, seconds: float, requests: int) -> str:
    bad = ledger.lost + ledger.wrong + ledger.unexpected.total()
    left_s = (requests - ledger.done) * seconds / max(ledger.done, 1)
    return (
        f"{ledger.done} of {requests} ({ledger.done / seconds:.0f}/s, {left_s / 60:.0f} min to go); broken: {bad}; "
        f"{now.rss_kib / 1024:.0f} MiB, {now.descriptors} descriptors, {now.threads} threads"
    )
