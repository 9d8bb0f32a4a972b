"""How far a run is: a bar on a terminal, a plain line now and then elsewhere. To standard error."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TextIO

LINE_S = 10.0
"""Between plain lines."""


class Progress(AbstractContextManager["Progress"]):
    """Rate and time left are of this run; rows count those of earlier runs, too.

    Args:
        stream: a terminal or not.
        now: a clock, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._now = now
        self._bar: Any = _bar(self._stream) if self._stream.isatty() else None
        self._task: Any = None
        self._began = self._told = now()
        self._first_rows = 0
        self._first_share: float | None = None

    def begin(self, rows: int) -> None:
        self._began = self._told = self._now()
        self._first_rows = rows
        if rows:
            self._line(f"goes on after {rows} rows")
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("classify", total=1.0, rows=f"{rows:,} rows", rate="")

    def update(self, rows: int, share: float) -> None:
        now = self._now()
        if self._first_share is None:
            self._first_share = 0.0 if not self._first_rows else share
        rate = (rows - self._first_rows) / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=share, rows=f"{rows:,} rows", rate=f"{rate:,.1f} rows/s")
        elif now - self._told >= LINE_S or share >= 1.0:
            self._told = now
            left = (now - self._began) * (1 - share) / max(share - self._first_share, 1e-9)
            shown = f" left_s={left:.0f};" if share > self._first_share else ""
            self._line(f"rows={rows}; rows_per_s={rate:.1f}; share={share:.3f};{shown}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.fields[rows]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )
