"""A runtime's process as the benchmarks use it: started, asked for turns, ended. The other end is `worker`."""

import json
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from benchmarks.processes import last_line, running
from benchmarks.tools.errors import Unavailable

READY_S = 1500.0
"""Seconds to load, compile and warm up."""

TURN_S = 600.0
"""Seconds for one turn."""


class RuntimeProcess:
    """A process that is loaded and warm; made by `started`."""

    def __init__(self, process: "Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log
        self.ready = self._answer(READY_S)
        """The fields of the first line."""

    def run(self, word: int | str) -> dict[str, Any]:
        """Run one turn and return its fields.

        Raises:
            Unavailable: The process ended, or takes too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"run {word}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(last_line(self._log)) from None
        return self._answer(TURN_S)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # only one line is ever on its way, so the buffer cannot hold one that select does not see
        if not select.select([self._process.stdout], [], [], limit_s)[0]:
            raise Unavailable(f"no answer within {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise Unavailable(last_line(self._log))
        fields: dict[str, Any] = json.loads(line)
        return fields


@contextmanager
def started(
    module: str,
    settings: Mapping[str, Any],
    *,
    log: Path,
    python: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[RuntimeProcess]:
    """Start a runtime and wait until it is warm.

    Args:
        module: A module of `benchmarks.runtimes` that has `build`.
        settings: The arguments of `build`.
        log: The file that takes what the process and its libraries print.
        python: The interpreter of its environment; None: this one.
        environment: Variables added to this process's environment.

    Raises:
        Unavailable: It cannot run here; the message is the last line of its log.
    """
    words = ("-m", "benchmarks.runtimes.worker", module, json.dumps(settings, default=str))
    with running([python or sys.executable, *words], log=log, environment=environment, pipes=True) as process:
        yield RuntimeProcess(process, log)
