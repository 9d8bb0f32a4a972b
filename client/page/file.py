"""An uploaded file on the page: its columns, its classification, and the rows to show. No Streamlit in here.

`client.files.classify` does the work, as for `python -m client classify`: rows that cannot be classified keep their
place and say why.
"""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.async_client import AsyncClient
from client.files.classify import Interrupted, Job, Summary, Tell, classify
from client.files.results import COLUMNS
from client.files.table import InputError, LinesSource, open_source, without_formula
from client.transport.retry import Retry

TYPES = ("csv", "tsv", "jsonl", "ndjson", "parquet")
TEXT_NAMES = ("text", "article", "content", "body", "description", "title")
MOST_ROWS = 20_000  # shown in the browser; the download has all
SHOWN_CHARS = 300
PATIENT = Retry(total_s=120, tries=20)
LOOKED_AT = 100  # first lines of JSON Lines whose names are offered as columns
_one_at_a_time = threading.Lock()  # the whole page has one, so that its memory holds one file under way


class Busy(Exception):
    """The page classifies a file already, and takes one at a time."""


def save(content: bytes | memoryview, name: str, directory: Path) -> Path:
    """Write an uploaded file under a name of the page's own. Raises InputError: there is no room."""
    path = directory / f"upload{Path(name).suffix.lower()}"
    try:
        path.write_bytes(content)
    except OSError as exc:
        raise InputError(f"this page has no room for the file ({exc.strerror}); try again later") from exc
    return path


def columns_of(path: Path) -> list[str]:
    """Return the names of a file's columns. Raises InputError: there are none, or the file cannot be read."""
    source = open_source(path)
    if isinstance(source, LinesSource):  # which says it all only after all of the file
        found = list({name: None for row in itertools.islice(source.rows(""), LOOKED_AT) for name in row.values})
    else:
        found = source.columns()
    if not found:
        raise InputError("the file has no columns; its first line should name them")
    return found


def likely_column(columns: Sequence[str]) -> int:
    """Return the place of the column that most likely has the texts."""
    names = [name.strip().lower() for name in columns]
    return next((names.index(name) for name in TEXT_NAMES if name in names), 0)


def classify_file(source: Path, column: str, url: str, api_key: str, tell: Tell) -> tuple[Summary, Path]:
    """Classify every row of a file, and tell the progress in this thread. Raises ClientError, Busy.

    Return the summary and the output, which stands beside the file.
    """
    output = source.with_name(f"labelled-{source.name}")
    prefix = prefix_for(columns_of(source))
    job = Job(source, output, column, prefix=prefix, spreadsheet_safe=True, overwrite=True, restart=True)

    async def run() -> Summary:
        async with AsyncClient(url, api_key=api_key, retry=PATIENT) as client:
            return await classify(job, client, tell)

    if not _one_at_a_time.acquire(blocking=False):
        raise Busy
    try:
        return asyncio.run(run()), output
    except Interrupted as exc:  # nobody can go on with this file later, so only the cause matters
        raise exc.__cause__ or exc from None
    finally:
        _one_at_a_time.release()


def prefix_for(columns: Sequence[str]) -> str:
    """Return what must stand before the added columns' names, "" unless the file has one of these names itself."""
    prefix = ""
    while any(f"{prefix}{name}" in columns for name in COLUMNS):
        prefix += "new_"
    return prefix


@dataclass(frozen=True)
class LabelledFile:
    """A labelled file as the page shows it."""

    rows: list[dict[str, Any]]  # row, text, label, probability, unsure, problem; the first `MOST_ROWS` of the file
    labels: Counter[str]  # of all rows
    summary: Summary
    output: Path

    def filtered(self, labels: Sequence[str], only: str, least: float) -> list[dict[str, Any]]:
        """Return the rows with these labels (none: all), of one kind ("all", "unsure" or "failed") and at least this
        probability; failed rows have none and stay only at 0."""
        return [
            row
            for row in self.rows
            if (not labels or row["label"] in labels)
            and (only != "unsure" or row["unsure"])
            and (only != "failed" or row["problem"])
            and (row["probability"] or 0.0) >= least
        ]


def read_labelled(summary: Summary, output: Path, column: str, prefix: str = "") -> LabelledFile:
    """Read what `classify_file` wrote; `prefix` is the one that `prefix_for` gave."""
    rows = []
    if column not in columns_of(output):
        column = without_formula(column)
    for number, row in enumerate(itertools.islice(open_source(output).rows(column), MOST_ROWS), 1):
        values = {name: row.values.get(f"{prefix}{name}") for name in COLUMNS}
        rows.append(
            {
                "row": number,
                "text": str(row.values.get(column) or "")[:SHOWN_CHARS].encode("utf-8", "replace").decode(),
                "label": values["prediction"] or "",
                "probability": float(values["score"]) if values["score"] not in (None, "") else None,
                "unsure": values["unsure"] in (True, "true"),
                "problem": values["error"] or "",
            }
        )
    return LabelledFile(rows, summary.labels, summary, output)
