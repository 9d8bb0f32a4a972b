"""What `classify` has found so far, beside the output: one line a row, so that a killed run goes on where it stopped.

    OUTPUT.partial.jsonl     line 1: what the run is about; every further line: one input row's result, in order

Lines are only ever appended. After a kill the last one may be broken off: it is cut away, and the row asked again. The
output itself is written from the input and this file when all rows are there, under another name first; so it is whole
or absent, and the same however often the run was interrupted: to the byte if the service's answers are, whose last
digit may depend on the texts that share a batch.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from client.files.table import InputError
from client.models import Outcome, Prediction

try:
    import fcntl
except ImportError:  # no such thing on this platform: two runs with one output are the user's to avoid
    fcntl = None  # type: ignore[assignment]

COLUMNS: Mapping[str, type] = {
    "prediction": str,
    "score": float,
    "unsure": bool,
    "tokens_read": int,
    "truncated": bool,
    "error_kind": str,
    "error": str,
}
"""Added to each row; with all scores, one "score_LABEL" each label more."""

SCORE_DIGITS = 4
"""Significant digits that are written. A score's last bits depend on what it was computed beside: of 4,000 scores with
six digits, two were others when the same file was classified again."""

BAD_ROW = "bad_row"
"""Kind of error of a row that has no text; the service has no part in it."""


def fingerprint(path: Path) -> dict[str, Any]:
    """Tells a file from another: its size, and a hash over all of it, which takes a second or two a gigabyte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def result_of(outcome: Outcome, problem: str, labels: list[str]) -> dict[str, Any]:
    """The added columns of one row.

    Args:
        outcome: the service's.
        problem: the row's own, which wins.
        labels: whose scores are wanted one by one.
    """
    if problem:
        return {"error_kind": BAD_ROW, "error": problem}
    if not isinstance(outcome, Prediction):
        return {"error_kind": outcome.kind, "error": outcome.error}
    given = {score.label: score.score for score in outcome.scores}
    return {
        "prediction": outcome.label,
        "score": _rounded(outcome.score),
        "unsure": outcome.unsure,
        "tokens_read": outcome.tokens_read,
        "truncated": outcome.truncated,
        **{f"score_{label}": _rounded(given[label]) for label in labels if label in given},
    }


def _rounded(score: float) -> float:
    return float(f"{score:.{SCORE_DIGITS}g}")


class Results:
    """The file. Use as a context manager; `done` rows are in it already.

    Args:
        output: the file that is to be made.
        about: what the run is about; a file about something else is refused.
        restart: forget what is there.

    Raises:
        InputError: a run about something else, or another process at work.
    """

    def __init__(self, output: Path, about: Mapping[str, Any], restart: bool = False) -> None:
        self.path = output.with_name(output.name + ".partial.jsonl")
        self._file: BinaryIO = self.path.open("ab+")
        try:
            self._lock()
            if restart:
                self._file.truncate(0)
            self.done = self._checked(about)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path}: another run is at work on it; wait for it or end it") from None

    def _checked(self, about: Mapping[str, Any]) -> int:
        """Cut off what is incomplete; the rows that are there."""
        self._file.seek(0)
        whole, lines, first = 0, 0, b""
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            first = first or line
            whole += len(line)
            lines += 1
        self._file.truncate(whole)
        if not lines:
            self._file.write(json.dumps(about).encode() + b"\n")
            self._file.flush()
            return 0
        self._compare(first, about)
        return lines - 1

    def _compare(self, first: bytes, about: Mapping[str, Any]) -> None:
        try:
            was = json.loads(first)
        except ValueError:
            raise InputError(f"{self.path}: not made by this command; move it away") from None
        for name, value in about.items():
            if was.get(name) != value:
                raise InputError(
                    f"{self.path}: the run to go on with had {name} {json.dumps(was.get(name))}, now it is "
                    f"{json.dumps(value)}; go back to that, or begin anew with --restart"
                )

    def append(self, result: Mapping[str, Any]) -> None:
        """One row more; in the file after `flush`."""
        self._file.write(json.dumps(result, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """What was appended survives the end of this process."""
        self._file.flush()

    def sync(self) -> None:
        """What was appended survives the machine's end, too."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """All rows' results."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def remove(self) -> None:
        """The output is whole."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported as such
            self._file.close()
