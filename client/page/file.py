"""A file that was uploaded: its columns, classifying it, and the rows to show. No Streamlit in here.

The upload becomes a file of its own in a directory that ends with the session, and `client.files.classify`
does the work, as for `python -m client classify`: rows that cannot be classified keep their place and say why.
"""

import asyncio
import csv
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.client import AsyncClient
from client.files.classify import Interrupted, Job, Summary, classify
from client.files.results import COLUMNS
from client.files.table import InputError, format_of, open_source
from client.transport.retry import Retry

TYPES = ("csv", "tsv", "jsonl", "ndjson", "parquet")
TEXT_NAMES = ("text", "article", "content", "body", "description", "title")
MOST_ROWS = 20_000
"""Shown in the browser; the download has all."""

SHOWN_CHARS = 300
PATIENT = Retry(total_s=120, tries=20)
LOOKED_AT = 100
"""First lines of JSON Lines whose names are offered as columns."""


def columns_of(path: Path) -> list[str]:
    """Names of a file's columns. Raises InputError: there are none, or the file cannot be read."""
    kind = format_of(path)
    if kind == "parquet":
        import pyarrow.parquet as pq

        try:
            found = list(pq.read_schema(path).names)
        except Exception as exc:  # pyarrow's, of several families
            raise InputError(f"not a Parquet file: {exc}") from exc
    elif kind == "lines":
        found = _names(path)
    else:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            try:
                found = next(csv.reader(file, delimiter="\t" if kind == "tsv" else ","), [])
            except csv.Error as exc:
                raise InputError(f"the first line names no columns: {exc}") from exc
    if not found:
        raise InputError("the file has no columns; its first line should name them")
    return found


def _names(path: Path) -> list[str]:
    found: dict[str, None] = {}
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in itertools.islice(file, LOOKED_AT):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.update(dict.fromkeys(value))
    return list(found)


def likely_column(columns: Sequence[str]) -> int:
    """Place of the column that most likely has the texts."""
    names = [name.strip().lower() for name in columns]
    return next((names.index(name) for name in TEXT_NAMES if name in names), 0)


class _Told:
    """Passes on how far it is, by rows: of a small file all is read long before it is answered."""

    def __init__(self, rows: int, tell: Callable[[int, float, float], None]) -> None:
        self._rows, self._tell, self._began = rows, tell, time.monotonic()

    def begin(self, rows: int) -> None:
        self._began = time.monotonic()

    def update(self, rows: int, share: float) -> None:
        self._tell(rows, min(rows / self._rows, 1.0) if self._rows else 1.0, time.monotonic() - self._began)


def classify_file(
    source: Path, column: str, url: str, api_key: str, tell: Callable[[int, float, float], None]
) -> tuple[Summary, Path]:
    """Classify every row of a file.

    Args:
        source: the file; the output stands beside it.
        column: with the texts.
        url: of the service.
        api_key: of the service, "" for none.
        tell: called with rows done, their share (0 to 1) and seconds, in this thread.

    Raises:
        ClientError: the file cannot be used, or the service gives no answers.
    """
    output = source.with_name(f"labelled-{source.name}")
    job = Job(source, output, column, overwrite=True, restart=True, prefix=prefix_for(columns_of(source)))

    told = _Told(sum(1 for _ in open_source(source, column).rows()), tell)

    async def run() -> Summary:
        async with AsyncClient(url, api_key=api_key, retry=PATIENT) as client:
            return await classify(job, client, told)

    try:
        return asyncio.run(run()), output
    except Interrupted as exc:  # what it comes from matters here: nobody can go on with this file later
        raise exc.__cause__ or exc from None


def prefix_for(columns: Sequence[str]) -> str:
    """Before the added columns' names, where the file has one of them itself."""
    prefix = ""
    while any(f"{prefix}{name}" in columns for name in COLUMNS):
        prefix += "new_"
    return prefix


@dataclass(frozen=True)
class Shown:
    """What the page has of a labelled file."""

    rows: list[dict[str, Any]]
    """row, text, label, probability, unsure, problem; the first `MOST_ROWS` of the file."""
    labels: Counter[str]
    """Of all rows."""
    summary: Summary
    output: Path

    def filtered(self, labels: Sequence[str], only: str, least: float) -> list[dict[str, Any]]:
        """Some of the rows.

        Args:
            labels: those to keep; none: all.
            only: "all", "unsure" or "failed".
            least: probability; failed rows have none and stay only at 0.
        """
        return [
            row
            for row in self.rows
            if (not labels or row["label"] in labels)
            and (only != "unsure" or row["unsure"])
            and (only != "failed" or row["problem"])
            and (row["probability"] or 0.0) >= least
        ]


def shown(summary: Summary, output: Path, column: str, prefix: str = "") -> Shown:
    """Read what `classify_file` wrote; `prefix` as there."""
    rows = []
    for number, row in enumerate(itertools.islice(open_source(output, column).rows(), MOST_ROWS), 1):
        values = {name: row.values.get(f"{prefix}{name}") for name in COLUMNS}
        score = values["score"]
        rows.append(
            {
                "row": number,
                "text": str(row.values.get(column) or "")[:SHOWN_CHARS].encode("utf-8", "replace").decode(),
                "label": values["prediction"] or "",
                "probability": float(score) if score not in (None, "") else None,
                "unsure": values["unsure"] in (True, "true"),
                "problem": values["error"] or "",
            }
        )
    return Shown(rows, summary.labels, summary, output)
