"""The results of a run so far, in a file beside the output, so that an interrupted run goes on where it stopped.

    OUTPUT.partial.jsonl     line 1: what the run is about; each further line: the result of one input row, in order

Lines are only appended. After a kill the last one may be broken off: it is cut away, and its row classified again. The
output is written from the input and this file when all rows are there, under another name first: it is whole or absent,
and the same however often the run was interrupted, to the byte if the service's answers are the same.
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
except ImportError:  # Windows: two runs with one output are the user's to avoid
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
"""The added columns; with all scores, there is also one "score_LABEL" for each label."""

SCORE_DIGITS = 4
"""Significant digits of a score. Its last bits depend on the texts that share its batch: of 4,000 scores with six
digits, two differed when the same file was classified again."""

BAD_ROW = "bad_row"
"""Kind of error of a row that has no text; it does not come from the service."""


def fingerprint(path: Path) -> dict[str, Any]:
    """Return a file's size and a hash over all of it, which takes a second or two a gigabyte."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def result_of(outcome: Outcome, problem: str, labels: list[str]) -> dict[str, Any]:
    """Return the added columns of one row; `problem` says why the row has no text, "" if it has one, and `labels` have
    columns for their probabilities."""
    if problem:
        return {"error_kind": BAD_ROW, "error": problem}
    if not isinstance(outcome, Prediction):
        return {"error_kind": outcome.kind, "error": outcome.error}
    scores = {score.label: score.score for score in outcome.scores}
    return {
        "prediction": outcome.label,
        "score": _rounded(outcome.score),
        "unsure": outcome.unsure,
        "tokens_read": outcome.tokens_read,
        "truncated": outcome.truncated,
        **{f"score_{label}": _rounded(scores[label]) for label in labels if label in scores},
    }


def _rounded(score: float) -> float:
    return float(f"{score:.{SCORE_DIGITS}g}")


class Results(contextlib.AbstractContextManager["Results"]):
    """The file of results for an output; `done` rows are in it already, unless `restart` forgets them.

    Raises:
        InputError: the file is not about what this run is `about`, or another process writes it.
    """

    def __init__(self, output: Path, about: Mapping[str, Any], restart: bool = False) -> None:
        self.path = output.with_name(output.name + ".partial.jsonl")
        self._file: BinaryIO = self.path.open("ab+")
        with contextlib.ExitStack() as opened:
            opened.enter_context(self._file)
            try:
                if fcntl is not None:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.path}: another run is at work on it; wait for it or end it") from None
            if restart:
                self._file.truncate(0)
            self.done = self._checked(about)
            opened.pop_all()

    def _checked(self, about: Mapping[str, Any]) -> int:
        """Cut off what is incomplete. Return how many rows are there."""
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):
            self._file.truncate(0)
            self.append(about)
            self.flush()
            return 0
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
        size, rows = len(first), 0
        for line in self._file:
            if line.endswith(b"\n"):
                size, rows = size + len(line), rows + 1
        self._file.truncate(size)
        return rows

    def append(self, result: Mapping[str, Any]) -> None:
        """Add one row; it is in the file after `flush`."""
        self._file.write(json.dumps(result, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def flush(self) -> None:
        """Write what was appended, so that it survives the end of this process."""
        self._file.flush()

    def sync(self) -> None:
        """Write what was appended, so that it survives the machine's end."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the results of all rows."""
        with self.path.open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def remove(self) -> None:
        """Delete the file: the output is whole."""
        self.path.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported already
            self._file.close()
