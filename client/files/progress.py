"""The progress of a run on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TextIO

LINE_S = 10.0  # between plain lines


class Progress(AbstractContextManager["Progress"]):
    """Shows rows, rate and time left. Rate and time are this run's; rows count those of earlier runs, too.

    Args:
        stream: a terminal or not; None for standard error.
        now: a clock, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now = stream or sys.stderr, now
        self._bar: Any = _bar(self._stream) if self._stream.isatty() else None
        self._began = self._told = now()
        self._first = self._total = 0

    def begin(self, rows: int, total: int) -> None:
        """Start the clock; an earlier run has done `rows` of all rows."""
        self._began = self._told = self._now()
        self._first, self._total = rows, total
        if rows:
            self._line(f"goes on after {rows} rows")
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("classify", total=total, completed=rows, rows=f"{rows:,} rows", rate="")

    def update(self, rows: int) -> None:
        """Show that all runs together have done `rows`."""
        now, done = self._now(), rows - self._first
        rate = done / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, rows=f"{rows:,} rows", rate=f"{rate:,.1f} rows/s")
        elif now - self._told >= LINE_S or rows >= self._total:
            self._told = now
            left = f" left_s={(self._total - rows) / rate:.0f};" if rate else ""
            self._line(f"rows={rows}; rows_per_s={rate:.1f}; share={rows / max(self._total, 1):.3f};{left}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: TextIO) -> Any:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        *(rich.TextColumn("{task.fields[rows]}"), rich.BarColumn(), rich.TaskProgressColumn()),
        *(rich.TextColumn("{task.fields[rate]}"), rich.TimeElapsedColumn()),
        *(rich.TextColumn("left"), rich.TimeRemainingColumn()),
    )
    return rich.Progress(*columns, console=Console(file=stream))
