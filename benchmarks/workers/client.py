"""The other end of `protocol`: a worker process that is started, asked and ended."""

import json
import select
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

from benchmarks.errors import Unavailable
from benchmarks.processes import last_line, running

READY_S = 1500.0
"""Seconds to load, compile and warm up."""

TURN_S = 600.0
"""Seconds for one turn."""


class Worker:
    """Use `started`."""

    def __init__(self, process: "Popen[bytes]", log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid
        self.ready = self._answer(READY_S)

    def run(self, turn: int | str) -> dict[str, Any]:
        """One turn; for the fields see `protocol`.

        Raises:
            Unavailable: it ended, or takes too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"run {turn}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable(last_line(self._log)) from None
        return self._answer(TURN_S)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # one line at a time is on its way, so nothing can be left in the buffer that select does not see
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
    flags: Sequence[str | Path],
    *,
    log: Path,
    python: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Worker]:
    """A worker that is ready.

    Args:
        module: of `benchmarks.workers`.
        flags: of its command line.
        log: takes what it and its libraries print.
        python: the interpreter of its environment; None: ours.
        environment: added to our own.

    Raises:
        Unavailable: it cannot run here; the message is the last line of its log.
    """
    command = [python or sys.executable, "-m", f"benchmarks.workers.{module}", *flags]
    with running(command, log=log, environment=environment, pipes=True) as process:
        yield Worker(process, log)
