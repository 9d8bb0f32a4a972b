"""Classify a file of texts: the same file with labels comes out, at constant memory, and a stopped run can go on."""

import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.async_client import CONCURRENCY, AsyncClient
from client.errors import Unsupported
from client.files.results import COLUMNS, Results, fingerprint, result_of
from client.files.table import DELIMITERS, InputError, Source, format_of, open_source, write_csv, write_lines
from client.models import ModelInfo, Outcome
from client.transport.messages import OptionFields

FLUSH_S = 0.5  # between two writes of results: a kill loses at most this much work, beside the requests under way


Tell = Callable[[int, int], None]
"""A function that is called with the rows done so far, earlier runs included, and with all rows; first at the start."""


@dataclass(frozen=True)
class Job:
    """What to classify, and how; the command line's arguments."""

    source: Path
    output: Path
    text_column: str = "text"
    options: OptionFields = field(default_factory=OptionFields)
    concurrency: int = CONCURRENCY  # requests at a time, at most
    all_scores: bool = False  # add a column for each label's probability
    prefix: str = ""  # before the names of the added columns
    spreadsheet_safe: bool = False  # write CSV and TSV in which no cell is a formula
    restart: bool = False  # forget what an interrupted run has done
    overwrite: bool = False  # replace an existing output


@dataclass
class Summary:
    """The result of a run."""

    rows: int = 0
    resumed_at: int = 0  # rows that an earlier run had done
    seconds: float = 0.0  # of this run, until the last answer
    labels: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # rows without a label, by kind of error

    def as_json(self) -> dict[str, Any]:
        done = self.rows - self.resumed_at
        return vars(self) | {
            "failed_rows": sum(self.failed.values()),
            "rows_per_s": round(done / self.seconds, 2) if self.seconds else 0.0,
            "seconds": round(self.seconds, 3),
        }


class Interrupted(Exception):
    """A run ended early; the message says how many rows are done, and where they are kept."""


async def classify(job: Job, client: AsyncClient, tell: Tell, now: Callable[[], float] = time.monotonic) -> Summary:
    """Classify a file, or go on with an interrupted run.

    Raises:
        InputError: the input or output cannot be used, or an interrupted run was about something else.
        Interrupted: a ClientError or a cancellation, which is its cause, ended the run.
    """
    source = _checked(job)
    model = await _model(job, client)
    run = _Run(job, client, source, model)
    total = sum(1 for _ in source.rows(job.text_column))
    try:
        results = Results(job.output, run.about, job.restart)
    except OSError as exc:
        raise InputError(f"{job.output}: {exc.strerror or exc}") from exc
    with results:
        summary = Summary(resumed_at=results.done)
        tell(results.done, total)
        began = now()
        try:
            await run.answer(results, lambda rows: tell(rows, total), now)
            summary.seconds = now() - began
            results.sync()
            if fingerprint(job.source) != run.about["input"]:
                raise InputError(f"{job.source} has changed while it was classified; begin anew with --restart")
            run.write(results, summary)
        except OSError as exc:
            raise InputError(
                f"{exc.filename or job.output}: {exc.strerror or exc}; what is done is kept in {results.path}, and "
                "the same command goes on there"
            ) from exc
        results.remove()
    return summary


def _checked(job: Job) -> Source:
    """Return the opened input. Raises InputError: the input or the output cannot be used."""
    format_of(job.output)
    source = open_source(job.source)
    source.check_column(job.text_column)
    if job.output.is_dir():
        raise InputError(f"{job.output} is a directory")
    if job.output.exists() and not job.overwrite:
        raise InputError(f"{job.output} exists; --overwrite replaces it")
    if job.output.resolve() == job.source.resolve():
        raise InputError(f"{job.output} is the input itself")
    return source


async def _model(job: Job, client: AsyncClient) -> ModelInfo | None:
    """Return the model in service, None if the service cannot be asked."""
    try:
        return (await client.info()).model
    except Unsupported:
        if job.all_scores:
            raise InputError("--all-scores needs the labels' names, which an endpoint does not tell") from None
        return None


class _Run:
    def __init__(self, job: Job, client: AsyncClient, source: Source, model: ModelInfo | None) -> None:
        self.job, self.client, self.source = job, client, source
        self.model = {"name": model.name, "version": model.version} if model else None
        self.labels = model.labels if model and job.all_scores else []  # that have a column for their probability
        columns = {**COLUMNS, **{f"score_{label}": float for label in self.labels}}
        self.added: Mapping[str, type] = {f"{job.prefix}{name}": kind for name, kind in columns.items()}
        if taken := [name for name in source.columns() if name in self.added]:
            raise InputError(
                f"{job.source} has a column {taken[0]!r} of its own; --prefix renames those that are added"
            )
        self.about: Mapping[str, Any] = {  # what must be the same for a run that goes on
            "format": 2,
            "input": fingerprint(job.source),
            "text_column": job.text_column,
            "options": dict(job.options),
            "all_scores": job.all_scores,
            "model": self.model,
        }

    async def answer(self, results: Results, tell: Callable[[int], None], now: Callable[[], float]) -> None:
        """Append the results of all rows that have none. Raises OSError from the disk, Interrupted for all else."""
        problems: deque[str] = deque()
        rows, flushed = results.done, now()
        try:
            texts = self._texts(results.done, problems)
            answers = self.client.predict_many(texts, concurrency=self.job.concurrency, **self.job.options)
            async with aclosing(answers):
                async for outcome in answers:
                    self._check_model(outcome)
                    results.append(result_of(outcome, problems.popleft(), self.labels))
                    rows += 1
                    if now() - flushed >= FLUSH_S:
                        results.flush()
                        flushed = now()
                        tell(rows)
        except OSError:
            raise
        except BaseException as exc:  # cancellation, too
            results.flush()
            kept = f"{rows} rows are done and kept in {results.path}; the same command goes on there"
            raise Interrupted(kept) from exc
        tell(rows)

    def _check_model(self, outcome: Outcome) -> None:
        """Raises InputError: the service has changed its model since the run began."""
        model = outcome.model.model_dump() if outcome.ok and outcome.model else self.model
        if model != self.model and self.model is not None:
            raise InputError(
                f"the service answers by the model {json.dumps(model)} now, the run began with "
                f"{json.dumps(self.model)}; go back to that, or begin anew with --restart"
            )

    async def _texts(self, skip: int, problems: deque[str]) -> AsyncIterator[str]:
        """Yield the texts after the first rows. A row without one yields "", so that each row has one answer."""
        for number, row in enumerate(self.source.rows(self.job.text_column)):
            if number >= skip:
                problems.append(row.problem)
                yield row.text

    def write(self, results: Results, summary: Summary) -> None:
        """Write the output from the input and the results."""
        unfinished = self.job.output.with_name(f".{self.job.output.name}.writing")
        try:
            self._write(unfinished, self._columns(results, summary))
            unfinished.replace(self.job.output)
        finally:
            unfinished.unlink(missing_ok=True)

    def _write(self, path: Path, found: Iterator[dict[str, Any]]) -> None:
        kind = format_of(self.job.output)
        if kind == "parquet":
            from client.files.parquet import ParquetSource, merge, write_parquet

            if isinstance(self.source, ParquetSource):
                return merge(self.source, found, self.added, path)
        columns = [*self.source.columns(), *self.added]
        pairs = zip(self.source.rows(self.job.text_column), found, strict=True)
        rows = ({**row.values, **result} for row, result in pairs)
        if kind == "parquet":
            write_parquet(path, columns, rows, self.added)
        elif kind == "lines":
            write_lines(path, rows)
        else:
            write_csv(path, columns, rows, DELIMITERS[kind], self.job.spreadsheet_safe)

    def _columns(self, results: Results, summary: Summary) -> Iterator[dict[str, Any]]:
        """Yield the added columns of every row, and count them."""
        for result in results.read():
            summary.rows += 1
            if "error_kind" in result:
                summary.failed[result["error_kind"]] += 1
            else:
                summary.labels[result["prediction"]] += 1
                summary.unsure += bool(result.get("unsure"))
            yield {name: result.get(name.removeprefix(self.job.prefix)) for name in self.added}
