"""Mixed requests, some of them faulty, in closed loops against the real service, beside attacks, and the verdict.

The service runs with the engine of `benchmarks.faulty_service`. Before the soak every text is sent alone, one after
the other; each later answer is compared with that. Memory is compared from the time when it has settled, after a tenth
of all requests: the allocator's arenas, caches of compiled patterns and the log's buffers have their size by then.
"""

import asyncio
import random
import signal
import subprocess
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from benchmarks.soak.answers import TOLERANCE, KnownText, difference
from benchmarks.soak.attacks import background
from benchmarks.soak.faulty_requests import FaultyRequestMaker
from benchmarks.soak.requests import RequestMaker, ServedModel, SoakRequest, stream
from benchmarks.soak.tally import Promise, Tally, memory_promise
from benchmarks.soak.texts import make_texts
from benchmarks.soak.watched_service import Sample, WatchedService, growth, thinned, watched_service
from benchmarks.tools.command_line import say
from benchmarks.tools.http1 import Connection, Lost
from benchmarks.tools.load import HOST
from benchmarks.tools.machine import describe

STOP_S = 30.0
IDLE_S = 30.0
"""Seconds after the last answer in which the queue must empty and connections must close."""

EVERY_S = 1.0
"""Seconds between samples of the process."""

SAY_EVERY_S = 10.0
MAX_BODY_BYTES = 100_000
"""SERVICE_MAX_BODY_BYTES of the soaked service, so that bodies beyond it cost the soak little."""

MAX_GROWTH = 0.02
JUDGED_FROM = 20_000
"""Fewest requests for which memory is judged. With fewer, memory does not settle in the first tenth of them."""

SPARE_DESCRIPTORS = 2
"""Descriptors that the interpreter may open later than at the start."""


def soak(options: Namespace) -> tuple[dict[str, Any], list[Promise]]:
    """Run one soak and return figures and promises.

    Raises:
        BenchmarkError: The service does not start, or a text alone is not answered.
    """
    limit = {"SERVICE_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with watched_service(options, "soak.log", "benchmarks.faulty_service", **limit) as service:
        figures, promises = asyncio.run(_Soak(options, service).run())
        promises.append(_stops(service))
    return figures | {"machine": describe(), "log_mb": round(service.log.stat().st_size / 1e6, 1)}, promises


class _Soak:
    """The state of one soak."""

    def __init__(self, options: Namespace, service: WatchedService) -> None:
        self._options, self._service = options, service
        self._samples: list[Sample] = []
        self._tally = Tally(0.0)
        self._settled_after = int(options.requests) // 10

    async def run(self) -> tuple[dict[str, Any], list[Promise]]:
        options, service, tally = self._options, self._service, self._tally
        info = await service.info()
        model = ServedModel(info["model"]["name"], info["model"]["labels"], info["limits"]["max_body_bytes"])
        tally.tolerance = TOLERANCE[info["model"]["precision"]]
        say(f"sending {options.texts} texts alone")
        known = await service.alone(make_texts(options.texts, options.seed))
        at_rest = service.sample(0)
        rng = random.Random(options.seed)
        maker = RequestMaker(known, model, rng)
        requests = stream([*maker.makers(), *FaultyRequestMaker(maker).makers()], options.requests, rng)
        say(f"{options.requests} requests by {options.clients} clients")
        own_cpu, started = time.process_time(), time.perf_counter()
        watching = asyncio.create_task(service.watch(self._samples, lambda: tally.done, EVERY_S))
        telling = asyncio.create_task(self._tell(started))
        attacking = [asyncio.create_task(attack(service.port)) for attack in background()]
        try:
            await asyncio.gather(*(self._client(requests) for _ in range(options.clients)))
        finally:
            for task in (watching, telling, *attacking):
                task.cancel()
            await asyncio.gather(*attacking, return_exceptions=True)
        seconds, own_cpu = time.perf_counter() - started, time.process_time() - own_cpu
        after = await self._idle(at_rest)
        repeated = await service.alone([one.text for one in known[:100]])
        texts, windows, tokens = await service.metrics("texts_total", "queue_windows", "queue_tokens")
        figures = {
            "model": {key: info["model"][key] for key in ("name", "version", "precision", "threads")},
            "clients": options.clients,
            "texts": options.texts,
            "seed": options.seed,
            "seconds": seconds,
            "requests_per_s": tally.done / seconds,
            "texts_per_s": texts / seconds,
            "cpu_s": {"service": after.cpu_s - at_rest.cpu_s, "clients": own_cpu},
            **tally.summary(),
            "rss_mib": {"at_rest": at_rest.rss_mib, "after": after.rss_mib, "growth": self._growth()},
            "samples": thinned(self._samples),
        }
        empty = Promise("nothing is left in the queue", not windows and not tokens, f"{windows:g} windows")
        return figures, [
            *tally.promises(),
            _unchanged(known, repeated, tally.tolerance),
            *self._resources(at_rest, after),
            empty,
        ]

    async def _client(self, requests: Iterator[SoakRequest]) -> None:
        connection, tally = Connection(HOST, self._service.port), self._tally
        for request in requests:
            tally.sent[request.kind] += 1
            if request.leaving:
                await connection.leave(request.wire, **vars(request.leaving))
                tally.left += 1
                continue
            sent = time.perf_counter()
            try:
                response = await connection.ask(request.wire, last=request.last)
            except Lost as exc:
                tally.lose(request, str(exc))
                if self._service.process.poll() is not None:
                    return
                continue
            tally.answer(request, response, time.perf_counter() - sent)
        connection.drop()

    async def _tell(self, started: float) -> None:
        """Print the progress of the soak from time to time."""
        tally = self._tally
        while True:
            await asyncio.sleep(SAY_EVERY_S)
            per_s, now = tally.done / (time.perf_counter() - started), self._samples[-1]
            left_min = (self._options.requests - tally.done) / max(per_s, 0.1) / 60
            say(
                f"{tally.done} of {self._options.requests} ({per_s:.0f}/s, {left_min:.0f} min to go); broken: "
                f"{tally.broken}; {now.rss_mib:.0f} MiB, {now.descriptors} descriptors, {now.threads} threads"
            )

    async def _idle(self, at_rest: Sample) -> Sample:
        """Return the process once nothing is in flight any more, or after `IDLE_S`."""
        deadline = time.monotonic() + IDLE_S
        while True:
            [windows] = await self._service.metrics("queue_windows")
            now = self._service.sample(self._tally.done)
            if not windows and now.descriptors <= at_rest.descriptors + SPARE_DESCRIPTORS:
                return now
            if time.monotonic() > deadline:
                return now
            await asyncio.sleep(0.1)

    def _growth(self) -> float | None:
        return growth(self._samples, self._settled_after)

    def _resources(self, at_rest: Sample, after: Sample) -> list[Promise]:
        threads = next((one.threads for one in self._samples if one.done >= self._settled_after), at_rest.threads)
        return [
            memory_promise(self._growth(), MAX_GROWTH, self._options.requests, JUDGED_FROM, "requests"),
            Promise(
                "no descriptor is left open",
                after.descriptors <= at_rest.descriptors + SPARE_DESCRIPTORS,
                f"{at_rest.descriptors} before, {after.descriptors} after",
            ),
            Promise("no thread is left", after.threads <= threads, f"{threads} settled, {after.threads} after"),
        ]


def _unchanged(known: list[KnownText], repeated: list[KnownText], tolerance: float) -> Promise:
    """Return whether the model gives the same answers after the soak as before."""
    pairs = zip(known, repeated, strict=False)
    changed = sum(difference(after.scores, before, tolerance) is not None for before, after in pairs)
    return Promise("texts alone are answered as before", not changed, f"{changed} of {len(repeated)} changed")


def _stops(service: WatchedService) -> Promise:
    """Return whether SIGTERM ends the service with exit code 0."""
    what = "SIGTERM ends the service, and it never logged anything critical"
    started = time.perf_counter()
    service.process.send_signal(signal.SIGTERM)
    try:
        code = service.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        return Promise(what, False, f"it still runs after {STOP_S:.0f} s")
    critical = sum(b'"level": "critical"' in line for line in service.log.read_bytes().splitlines())
    found = f"exit code {code} after {time.perf_counter() - started:.1f} s, {critical} critical lines in its log"
    return Promise(what, code == 0 and not critical, found)
