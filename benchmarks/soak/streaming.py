"""One /batch call of very many lines: order, completeness, memory and rate."""

import asyncio
import itertools
import json
import random
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from benchmarks.soak import answers
from benchmarks.soak.answers import TOLERANCE, Expected, KnownText, problem
from benchmarks.soak.tally import EXAMPLES, Promise, memory_promise
from benchmarks.soak.texts import WORDS
from benchmarks.soak.watched_service import Sample, WatchedService, thinned, watched_service
from benchmarks.tools.command_line import say
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.http1 import LINE_LIMIT, chunk, chunks, open_post
from benchmarks.tools.load import HOST
from benchmarks.tools.machine import describe

TEXTS = 500
WORDS_A_LINE = (2, 5)
EMPTY_EACH = 997
"""One line of this many is empty, and is answered by an error."""

LINES_A_PIECE = 100
EVERY_S = 0.25
"""Seconds between samples of the process."""

MAX_GROWTH = 0.05
JUDGED_FROM = 50_000
"""Fewest lines for which memory is judged."""

SAY_EACH = 20_000


def soak(options: Namespace) -> tuple[dict[str, Any], list[Promise]]:
    """Return figures and promises of one call of `options.lines` lines.

    Raises:
        BenchmarkError: The service does not start, or the stream ends early.
    """
    with watched_service(options, "soak-stream.log", "service") as service:
        figures, promises = asyncio.run(_run(options, service))
    return {"title": "Stream", **figures, "machine": describe()}, promises


async def _run(options: Namespace, service: WatchedService) -> tuple[dict[str, Any], list[Promise]]:
    info = (await service.info())["model"]
    rng = random.Random(options.seed)
    texts = dict.fromkeys(" ".join(rng.choices(WORDS, k=rng.randint(*WORDS_A_LINE))) for _ in range(TEXTS))
    known = await service.alone(list(texts))
    say(f"{options.lines} lines in one call")
    call = StreamCall(known, options.lines, options.seed, TOLERANCE[info["precision"]])
    await call.run(service)
    figures = {
        "model": {key: info[key] for key in ("name", "version", "precision", "threads", "max_batch_tokens")},
        "lines": options.lines,
        "seconds": call.seconds,
        "texts_per_s": call.read / call.seconds,
        "rss_mib": call.memory(),
        "examples": call.examples,
        "samples": thinned(call.samples),
    }
    return figures, call.promises()


def expected_lines(known: Sequence[KnownText], seed: int) -> Iterator[Expected]:
    """Yield without end what each line must be answered; the same each time, so that nothing has to be kept."""
    rng = random.Random(seed)
    for number in itertools.count(1):
        yield "empty_text" if number % EMPTY_EACH == 0 else rng.choice(known)


def pieces(expected: Iterator[Expected]) -> Iterator[bytes]:
    """Yield the lines that are to be sent as chunks of a body."""
    while lines := list(itertools.islice(expected, LINES_A_PIECE)):
        texts = (one.text if isinstance(one, KnownText) else " " for one in lines)
        yield chunk(b"".join(json.dumps(text).encode() + b"\n" for text in texts))


async def answer_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of an answer in chunked transfer coding as they come.

    Raises:
        BenchmarkError: The status is not 200, or the answer is cut.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"the stream was answered by {head[:60]!r}")
        rest = b""
        async for part in chunks(reader):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest
    except asyncio.IncompleteReadError as exc:
        raise BenchmarkError("the stream was cut before its end") from exc


class StreamCall:
    """One call whose answers are judged as they come.

    Args:
        known: The texts that lines are drawn from.
        lines: Their number.
        seed: Decides which are drawn.
        tolerance: Largest difference of a probability from the one that the text got alone.
    """

    def __init__(self, known: Sequence[KnownText], lines: int, seed: int, tolerance: float) -> None:
        self._known, self._lines, self._seed, self._tolerance = known, lines, seed, tolerance
        self.read = self.wrong = 0
        self.examples: list[str] = []
        self.seconds = 0.0
        self.samples: list[Sample] = []

    async def run(self, service: WatchedService) -> None:
        """Send all lines and judge every answer."""
        reader, writer = await asyncio.open_connection(HOST, service.port, limit=LINE_LIMIT)
        self.samples.append(service.sample(0))
        started = time.perf_counter()
        tasks = [
            asyncio.create_task(self._send(writer)),
            asyncio.create_task(service.watch(self.samples, lambda: self.read, EVERY_S)),
        ]
        try:
            expected = expected_lines(self._known, self._seed)
            async for line in answer_lines(reader):
                self.judge(line, next(expected))
        finally:
            self.seconds = time.perf_counter() - started
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
        self.samples.append(service.sample(self.read))

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(open_post("/batch", "application/x-ndjson"))
        for piece in pieces(itertools.islice(expected_lines(self._known, self._seed), self._lines)):
            writer.write(piece)
            await writer.drain()
        writer.write(chunk(b""))
        await writer.drain()

    def judge(self, line: bytes, expected: Expected) -> None:
        """Count one answer; keep the first wrong ones."""
        self.read += 1
        found = problem(line, answers.result_lines, [expected], self._tolerance)
        if found:
            self.wrong += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(f"line {self.read}: {found}")
        if self.read % SAY_EACH == 0:
            say(f"{self.read} of {self._lines}; wrong: {self.wrong}; {self.samples[-1].rss_mib:.0f} MiB")

    def memory(self) -> dict[str, float]:
        """Return MiB before the call, the peak in its first tenth, and the peak after that."""
        early = [one.rss_mib for one in self.samples if one.done <= self._lines / 10]
        late = [one.rss_mib for one in self.samples if one.done > self._lines / 10]
        return {"before": early[0], "first_tenth": max(early), "after_that": max(late)}

    def promises(self) -> list[Promise]:
        """Return the promises about a call that was read to its end."""
        memory = self.memory()
        grown = memory["after_that"] / memory["first_tenth"] - 1
        return [
            Promise("each line has one answer", self.read == self._lines, f"{self.read} of {self._lines}"),
            Promise("each answer is in its place and as alone", not self.wrong, f"{self.wrong} wrong"),
            memory_promise(grown, MAX_GROWTH, self._lines, JUDGED_FROM, "lines"),
        ]
