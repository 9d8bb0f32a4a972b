"""The soaked service: its process, its use of memory and time, its own figures, and its answers to single texts."""

import asyncio
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.processes import free_port, running, wait_for_status
from benchmarks.soak import answers
from benchmarks.soak.answers import KnownText
from benchmarks.tools.command_line import say
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.http1 import Connection, get, post_json
from benchmarks.tools.load import HOST, metrics

START_S = 180.0
MOST_SAMPLES = 200
"""Samples that go to the JSON file."""


@dataclass(frozen=True)
class Sample:
    """The process at one moment."""

    done: int
    """Requests, or lines of a stream, that were answered before."""
    rss_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    """Processor time of all threads since the start."""


@dataclass
class WatchedService:
    """A service that is ready."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def __post_init__(self) -> None:
        self.control = Connection(HOST, self.port)
        """A connection for single requests; it is closed after each, since it may then be idle for long."""
        self._watched = psutil.Process(self.process.pid)

    def sample(self, done: int) -> Sample:
        """Return the process's present use of the machine. Raises psutil.NoSuchProcess if it has ended."""
        with self._watched.oneshot():
            times = self._watched.cpu_times()
            rss_mib = self._watched.memory_info().rss / 2**20
            return Sample(
                done, rss_mib, self._watched.num_fds(), self._watched.num_threads(), times.user + times.system
            )

    async def watch(self, samples: list[Sample], done: Callable[[], int], every_s: float) -> None:
        """Append a sample at regular intervals until this is cancelled or the process ends."""
        with suppress(psutil.NoSuchProcess):
            while True:
                samples.append(self.sample(done()))
                await asyncio.sleep(every_s)

    async def info(self) -> dict[str, Any]:
        """Return the answer of /info."""
        found: dict[str, Any] = json.loads((await self.control.ask(get("/info"), last=True)).body)
        return found

    async def metrics(self, *names: str) -> tuple[float, ...]:
        """Return values of /metrics; names without the prefix `classifier_`."""
        return await metrics(self.port, *names)

    async def alone(self, texts: Sequence[str]) -> list[KnownText]:
        """Return the answer of each text, with nothing else in the service."""
        known = []
        for text in texts:
            response = await self.control.ask(post_json("/predict", {"text": text}))
            if response.status != 200:
                raise BenchmarkError(f"a text alone got {response.status}: {response.body[:200]!r}")
            [scores] = answers.predict(response.body)
            assert not isinstance(scores, str)
            known.append(KnownText(text, {label: score for label, score in scores.items() if score is not None}))
        self.control.drop()
        return known


@contextmanager
def watched_service(options: Namespace, log: str, module: str, **settings: str) -> Iterator[WatchedService]:
    """Start a service from a module, wait until it is ready, and end it afterwards.

    Raises:
        Unavailable: The service does not start.
    """
    path, port = options.work / log, free_port()
    environment = {"SERVICE_PORT": str(port), "SERVICE_MODEL_DIR": str(options.artifact), **settings}
    say(f"starting the service; its log is {path}")
    with running([sys.executable, "-m", module], log=path, environment=environment) as process:
        wait_for_status(process, port, "/readyz", limit_s=START_S, every_s=0.1)
        yield WatchedService(process, port, path)


def growth(samples: Sequence[Sample], settled_after: int) -> float | None:
    """Return by which share the memory grew since it had settled; None if there are too few samples.

    Compares the median of the last tenth of the samples with the median of the first tenth after `settled_after`
    requests, since a single sample may coincide with a large batch.
    """
    settled = [one.rss_mib for one in samples if one.done >= settled_after]
    tenth = len(settled) // 10
    if tenth < 1:
        return None
    return median(settled[-tenth:]) / median(settled[:tenth]) - 1


def thinned(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return evenly chosen samples for the JSON file."""
    return [vars(one) for one in samples[:: len(samples) // MOST_SAMPLES + 1]]
