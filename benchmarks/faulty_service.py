"""The real service around an engine that fails where a text asks for it: `python -m benchmarks.faulty_service`.

Settings, routes, batcher and model are the service's own; only the engine is wrapped, so that no test hook stands in
production code. A text that has one of the marks below in it makes the model fail in that way, for its windows or for
the batch that they are in. This service is for soaks and tests of faults, never for callers.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

from classifier import OnLong
from service import __main__ as service
from service.errors import ServiceError
from service.inference.engine import (
    EncodedWindow,
    Engine,
    EngineInfo,
    Logits,
    ModelOutOfMemory,
    Prediction,
    Progress,
    TextWindows,
    TokenizedText,
)
from service.settings import Settings, load_settings
from service.telemetry import configure_logging

RAISE: Final = "qzfaultraise"
"""The model raises on any batch with this text."""

NAN: Final = "qzfaultnan"
"""The model's scores for this text are not finite."""

MEMORY: Final = "qzfaultmemory"
"""There is not enough memory for any batch of several windows with this text; alone it fits."""

PANIC: Final = "qzfaultpanic"
"""The model raises what is no Exception, as extensions written in Rust do when they panic."""

HANG: Final = "qzfaulthang"
"""The model does not come back while the file that `--hold` names exists."""

PANIC_ENCODING: Final = "qzfaultencoding"
"""The tokenizer panics on any chunk of texts with this one."""

STALL_ENCODING: Final = "qzfaultstall"
"""The tokenizer does not come back while the file that `--hold` names exists."""

CLOCK: Final = "qzfaultclock"
"""The wall clock jumps: a day ahead, and with the next such text a day back."""

MARKS: Final = (RAISE, NAN, MEMORY, PANIC, HANG)
"""The marks that have an effect in the model; the others have one elsewhere."""

HOLD_POLL_S = 0.01
DAY_S = 86_400.0


class Panic(BaseException):
    """An error that is no Exception, like pyo3's PanicException."""


class _Marked(list[int]):
    """A window's ids, and the marks of its text."""

    marks: frozenset[str]


class FaultyEngine:
    """An engine that does what the marks in texts say; see `service.inference.engine.Engine` for the contract.

    Args:
        engine: the engine that answers all other texts.
        hold: while this file exists, `HANG` and `STALL_ENCODING` last.
    """

    def __init__(self, engine: Engine, hold: Path) -> None:
        self._engine = engine
        self._hold = hold
        self._ahead_s = 0.0

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def encode(
        self, texts: Sequence[str], on_long: OnLong | None, spans: bool = False
    ) -> list[TextWindows | ServiceError]:
        if any(PANIC_ENCODING in text for text in texts):
            raise Panic("injected: the tokenizer panicked")
        while any(STALL_ENCODING in text for text in texts) and self._hold.exists():
            time.sleep(HOLD_POLL_S)
        if any(CLOCK in text for text in texts):
            self._jump()
        results = self._engine.encode(texts, on_long, spans)
        return [_marked(text, result) for text, result in zip(texts, results, strict=True)]

    def tokenize(self, text: str) -> TokenizedText:
        return self._engine.tokenize(text)

    def infer(self, windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
        marks = [
            window.payload.marks if isinstance(window.payload, _Marked) else frozenset[str]() for window in windows
        ]
        found = frozenset[str]().union(*marks)
        if HANG in found:
            while self._hold.exists():
                time.sleep(HOLD_POLL_S)
        if PANIC in found:
            raise Panic("injected: the model panicked")
        if RAISE in found:
            raise RuntimeError("injected: the model fails on this text")
        if MEMORY in found and len(windows) > 1:
            raise ModelOutOfMemory("injected: not enough memory")
        rows = self._engine.infer(windows)
        return [[float("nan")] * len(row) if NAN in of else row for row, of in zip(rows, marks, strict=True)]

    def decode(self, text: TextWindows, logits: Sequence[Logits]) -> Prediction:
        return self._engine.decode(text, logits)

    def prepare_thread(self) -> None:
        self._engine.prepare_thread()

    def probe(self) -> None:
        self._engine.probe()

    def _jump(self) -> None:
        self._ahead_s = DAY_S - self._ahead_s
        ahead_s, wall_clock = self._ahead_s, _WALL_CLOCK
        time.time = lambda: wall_clock() + ahead_s


_WALL_CLOCK = time.time


def _marked(text: str, result: TextWindows | ServiceError) -> TextWindows | ServiceError:
    marks = frozenset(mark for mark in MARKS if mark in text)
    if not marks or isinstance(result, ServiceError):
        return result
    windows = []
    for window in result.windows:
        payload = _Marked(window.payload)
        payload.marks = marks
        windows.append(replace(window, payload=payload))
    return replace(result, windows=tuple(windows))


def main(arguments: Sequence[str]) -> int:
    """Serve as `python -m service` does; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hold", type=Path, default=Path("/nonexistent"), help="while it exists, the model may hang")
    options = parser.parse_args(arguments)
    load_engine = service._load_engine

    def load_faulty(settings: Settings, report: Progress) -> Engine:
        return FaultyEngine(load_engine(settings, report), options.hold)

    settings = load_settings()
    configure_logging(settings.log_level)
    with patch.object(service, "_load_engine", load_faulty):
        return service.serve(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
