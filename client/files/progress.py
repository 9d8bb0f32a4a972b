"""The progress of a run on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TextIO

LINE_S = 10.0  # between plain lines


class Progress(AbstractContextManager["Progress"]):
    """Shows rows, rate and time left when it is called. Rate and time are this run's; rows count those of earlier runs.

    Args:
        stream: a terminal or not; None for standard error.
        now: a clock, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now = stream or sys.stderr, now
        self._bar: Any = _bar(self._stream) if self._stream.isatty() else None
        self._first: int | None = None  # rows that an earlier run has done
        self._began = self._told = 0.0

    def __call__(self, rows: int, total: int) -> None:
        now = self._now()
        if self._first is None:
            self._first, self._began, self._told = rows, now, now
            if rows:
                self._line(f"goes on after {rows} rows")
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task("classify", total=total, completed=rows, rate="")
            return
        rate = (rows - self._first) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, rate=f"{rate:,.1f} rows/s")
        elif now - self._told >= LINE_S or rows >= total:
            self._told = now
            left = f" left_s={(total - rows) / rate:.0f};" if rate else ""
            self._line(f"rows={rows}; rows_per_s={rate:.1f}; share={rows / max(total, 1):.3f};{left}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: TextIO) -> Any:
    from rich import progress as rich
    from rich.console import Console

    rows, rate, left = map(rich.TextColumn, ("{task.completed:,} rows", "{task.fields[rate]}", "left"))
    share, elapsed, remaining = rich.TaskProgressColumn(), rich.TimeElapsedColumn(), rich.TimeRemainingColumn()
    return rich.Progress(rows, rich.BarColumn(), share, rate, elapsed, left, remaining, console=Console(file=stream))
