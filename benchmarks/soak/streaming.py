"""One /batch call of very many lines: order, completeness, memory and rate; and a caller who goes away half-way."""

import asyncio
import itertools
import json
import random
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.machine import describe
from benchmarks.options import say
from benchmarks.processes import free_port, running, wait_for_status
from benchmarks.soak import answers
from benchmarks.soak.answers import TOLERANCE, Expected, Known, problem
from benchmarks.soak.ledger import Promise
from benchmarks.soak.mixed import EVERY_S, HOST, IDLE_S, START_S, alone, gauge
from benchmarks.soak.texts import WORDS
from benchmarks.soak.watch import Sample, sample
from benchmarks.soak.wire import Connection, chunk, get

TEXTS = 500
WORDS_A_LINE = (2, 5)
EMPTY_EACH = 997
"""Every so many lines one is empty, whose place an error takes."""

LINES_A_PIECE = 100
MAX_GROWTH = 0.05
JUDGED_FROM = 50_000
MAX_BATCHES_AFTER = 2
"""The batch that was in the model when the caller left, and one that began before the service could know."""

QUIET_S = 1.0
"""Without a further batch, after which the work has stopped."""

SAY_EACH = 20_000
HEAD = b"POST /batch HTTP/1.1\r\nHost: soak\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def soak(options: Namespace) -> tuple[dict[str, Any], list[Promise]]:
    """Figures and promises of one call of `options.lines` lines, and of one that is given up half-way.

    Raises:
        BenchmarkError: the service does not start, or the stream ends early.
    """
    log: Path = options.work / "soak-stream.log"
    port = free_port()
    environment = {"SERVICE_PORT": str(port), "SERVICE_MODEL_DIR": str(options.artifact)}
    with running([sys.executable, "-m", "service"], log=log, environment=environment) as process:
        wait_for_status(process, port, "/readyz", limit_s=START_S, every_s=0.1)
        figures, promises = asyncio.run(_run(options, process.pid, port))
    return {"title": "Stream", **figures, "machine": describe()}, promises


async def _run(options: Namespace, pid: int, port: int) -> tuple[dict[str, Any], list[Promise]]:
    control = Connection(HOST, port)
    info = json.loads((await control.ask(get("/info"), last=True)).body)["model"]
    known = await alone(control, _texts(options.seed))
    say(f"{options.lines} lines in one call")
    call = Call(known, options.lines, options.seed, TOLERANCE[info["precision"]], pid)
    await call.all_of_it(port)
    say(f"{call.read} answers in {call.seconds:.0f} s; now a caller who goes away half-way")
    departure = await _departure(known, options, port, control)
    control.drop()
    figures = {
        "model": {key: info[key] for key in ("name", "version", "precision", "threads", "max_batch_tokens")},
        "lines": options.lines,
        "seconds": call.seconds,
        "texts_per_s": call.read / call.seconds,
        "rss_mib": call.memory(),
        "departure": departure,
        "examples": call.examples,
        "samples": [vars(one) for one in call.samples[:: len(call.samples) // 200 + 1]],
    }
    return figures, [*call.promises(), *_departed(departure)]


def _texts(seed: int) -> list[str]:
    """Of 3 to 6 tokens; no two alike."""
    rng = random.Random(seed)
    return list(dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randint(*WORDS_A_LINE))) for _ in range(TEXTS)))


def expected_lines(known: Sequence[Known], seed: int) -> Iterator[Expected]:
    """What each line asks, without end; the same each time it is called, so that nothing has to be kept."""
    rng = random.Random(seed)
    for number in itertools.count(1):
        yield "empty_text" if number % EMPTY_EACH == 0 else rng.choice(known)


def pieces(expected: Iterator[Expected]) -> Iterator[bytes]:
    """The lines as chunks of a body."""
    while lines := list(itertools.islice(expected, LINES_A_PIECE)):
        texts = (one.text if isinstance(one, Known) else " " for one in lines)
        yield chunk(b"".join(json.dumps(text).encode() + b"\n" for text in texts))


async def answer_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines of an answer in chunks, as they come.

    Raises:
        BenchmarkError: another status than 200, or the answer is cut.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"the stream was answered by {head[:60]!r}")
        rest = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest
    except asyncio.IncompleteReadError as exc:
        raise BenchmarkError("the stream was cut before its end") from exc


class Call:
    """One call, its answers judged as they come.

    Args:
        known: texts that lines are drawn from.
        lines: how many.
        seed: decides which.
        tolerance: of probabilities.
        pid: whose memory is watched.
    """

    def __init__(self, known: Sequence[Known], lines: int, seed: int, tolerance: float, pid: int) -> None:
        self._known, self._lines, self._seed, self._tolerance, self._pid = known, lines, seed, tolerance, pid
        self.read = 0
        self.wrong = 0
        self.examples: list[str] = []
        self.seconds = 0.0
        self.samples: list[Sample] = []

    async def all_of_it(self, port: int) -> None:
        """Send all lines, and judge every answer."""
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 22)
        self.samples.append(sample(self._pid, 0))
        started = time.perf_counter()
        sending = asyncio.create_task(self._send(writer))
        watching = asyncio.create_task(self._watch())
        try:
            expected = expected_lines(self._known, self._seed)
            async for line in answer_lines(reader):
                self.judge(line, next(expected))
        finally:
            self.seconds = time.perf_counter() - started
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)
            writer.close()
        self.samples.append(sample(self._pid, self.read))

    def judge(self, line: bytes, expected: Expected) -> None:
        """Count one answer; keep the first that are wrong."""
        self.read += 1
        found = problem(line, answers.result_lines, [expected], self._tolerance)
        if found:
            self.wrong += 1
            if len(self.examples) < 20:
                self.examples.append(f"line {self.read}: {found}")
        if self.read % SAY_EACH == 0:
            say(f"{self.read} of {self._lines}; wrong: {self.wrong}; {self.samples[-1].rss_kib / 1024:.0f} MiB")

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for piece in pieces(itertools.islice(expected_lines(self._known, self._seed), self._lines)):
            writer.write(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S / 4)
            self.samples.append(sample(self._pid, self.read))

    def memory(self) -> dict[str, float]:
        """MiB before the call, the most in its first tenth, and the most after that."""
        early = [one.rss_kib for one in self.samples if one.done <= self._lines / 10]
        late = [one.rss_kib for one in self.samples if one.done > self._lines / 10]
        return {"before": early[0] / 1024, "first_tenth": max(early) / 1024, "after_that": max(late) / 1024}

    def promises(self) -> list[Promise]:
        """Of a call that was read to its end."""
        memory = self.memory()
        grown = memory["after_that"] / memory["first_tenth"] - 1
        judged = self._lines >= JUDGED_FROM
        shown = f"{100 * grown:+.2f} % after the first tenth, {100 * MAX_GROWTH:.0f} % are allowed"
        return [
            Promise("one answer a line", self.read == self._lines, f"{self.read} of {self._lines}"),
            Promise("each in its place, as alone", not self.wrong, f"{self.wrong} wrong"),
            Promise(
                "memory does not grow with the call",
                not judged or grown <= MAX_GROWTH,
                shown if judged else f"{shown}; not judged below {JUDGED_FROM} lines",
            ),
        ]


async def _departure(known: Sequence[Known], options: Namespace, port: int, control: Connection) -> dict[str, float]:
    """Hang up once a part of the answers has come, and see what the service still does."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 22)

    async def send() -> None:
        writer.write(HEAD)
        for piece in pieces(expected_lines(known, options.seed)):
            writer.write(piece)
            await writer.drain()

    sending = asyncio.create_task(send())
    half = max(1, min(options.lines // 2, 5_000))
    read = 0
    async for _ in answer_lines(reader):
        read += 1
        if read >= half:
            break
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.transport.abort()
    at_leave = last = await _work_done(control)
    left = changed = time.perf_counter()
    while time.perf_counter() - changed < QUIET_S and changed - left < IDLE_S:
        await asyncio.sleep(0.01)
        now = await _work_done(control)
        if now != last:
            last, changed = now, time.perf_counter()
    return {
        "read": read,
        "batches_after": last[0] - at_leave[0],
        "texts_after": last[1] - at_leave[1],
        "idle_after_s": changed - left,
        "waiting": last[2],
    }


def _departed(found: dict[str, float]) -> list[Promise]:
    stopped = found["batches_after"] <= MAX_BATCHES_AFTER and not found["waiting"]
    shown = (
        f"{found['batches_after']:.0f} batches and {found['texts_after']:.0f} texts after the caller had left, idle "
        f"after {found['idle_after_s']:.2f} s, {found['waiting']:.0f} windows left in the queue"
    )
    return [Promise("work stops when the caller leaves, within one batch", stopped, shown)]


async def _work_done(control: Connection) -> tuple[float, float, float]:
    """Batches and texts so far, and windows in the queue."""
    metrics = (await control.ask(get("/metrics"), last=True)).body.decode()
    return (
        gauge(metrics, "classifier_batch_windows_count"),
        gauge(metrics, "classifier_texts_total"),
        gauge(metrics, "classifier_queue_windows"),
    )
