"""A file of texts in, the same file with labels out: any size at constant memory, resumable, one bad row harms none."""

import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from client.client import CONCURRENCY, AsyncClient
from client.errors import Unsupported
from client.files.results import COLUMNS, Results, fingerprint, result_of
from client.files.table import InputError, Source, format_of, open_sink, open_source
from client.models import Outcome, Prediction
from client.transport.wire import OptionFields

FLUSH_S = 0.5
"""At most so much work is lost by a kill, beside what is under way."""


class Watcher(Protocol):
    """Is told how far it is."""

    def begin(self, rows: int) -> None:
        """So many rows were done by an earlier run."""

    def update(self, rows: int, share: float) -> None:
        """Rows done by all runs, and the share of the file that has been read; 1 once all is done."""


@dataclass(frozen=True)
class Job:
    """What to do; the command line's arguments."""

    source: Path
    output: Path
    text_column: str = "text"
    options: OptionFields = field(default_factory=OptionFields)
    concurrency: int = CONCURRENCY
    """Requests at a time, at most."""
    all_scores: bool = False
    """A column for each label's probability, too."""
    prefix: str = ""
    """Before the names of the added columns."""
    restart: bool = False
    """Forget what an interrupted run has done."""
    overwrite: bool = False
    """Replace an output that is there."""


@dataclass
class Summary:
    """What came out."""

    rows: int = 0
    resumed_at: int = 0
    """Rows that an earlier run had done."""
    seconds: float = 0.0
    """Of this run, until the last answer."""
    labels: Counter[str] = field(default_factory=Counter)
    unsure: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Rows without a label, by kind of error."""

    def as_json(self) -> dict[str, Any]:
        done = self.rows - self.resumed_at
        return vars(self) | {
            "failed_rows": sum(self.failed.values()),
            "rows_per_s": round(done / self.seconds, 2) if self.seconds else 0.0,
            "seconds": round(self.seconds, 3),
        }


class Interrupted(Exception):
    """The run ended before its time; what is done is kept.

    Attributes:
        rows: done so far.
        path: of the state.
    """

    def __init__(self, rows: int, path: Path) -> None:
        super().__init__(f"{rows} rows are done and kept in {path}; the same command goes on there")
        self.rows, self.path = rows, path


async def classify(
    job: Job, client: AsyncClient, watcher: Watcher, now: Callable[[], float] = time.monotonic
) -> Summary:
    """Do it, or go on with it.

    Raises:
        InputError: the input or output cannot be used, or an interrupted run was about something else.
        Interrupted: from a ClientError or a cancellation, which is its cause.
    """
    kind = format_of(job.output)
    source = open_source(job.source, job.text_column)
    if job.output.is_dir():
        raise InputError(f"{job.output} is a directory")
    if job.output.exists() and not job.overwrite:
        raise InputError(f"{job.output} exists; --overwrite replaces it")
    if job.output.resolve() == job.source.resolve():
        raise InputError(f"{job.output} is the input itself")
    model, labels = await _model(client)
    if job.all_scores and not labels:
        raise InputError("--all-scores needs the labels' names, which an endpoint does not tell")
    wanted = labels if job.all_scores else []
    scores = {f"score_{label}": float for label in wanted}
    added = {f"{job.prefix}{name}": kind for name, kind in {**COLUMNS, **scores}.items()}
    taken = [name for name in source.columns() if name in added]
    if taken:
        raise InputError(f"{job.source} has a column {taken[0]!r} of its own; --prefix renames those that are added")
    try:
        about = _about(job, model)
        results = Results(job.output, about, job.restart)
    except OSError as exc:
        raise InputError(f"{job.output}: {exc.strerror or exc}") from exc
    with results:
        summary = Summary(resumed_at=results.done)
        watcher.begin(results.done)
        began = now()
        try:
            await _answer(job, source, client, results, wanted, model, watcher, now)
            summary.seconds = now() - began
            results.sync()
            if fingerprint(job.source) != about["input"]:
                raise InputError(f"{job.source} has changed while it was classified; begin anew with --restart")
            _write(job, kind, source, results, added, summary)
        except OSError as exc:
            raise InputError(
                f"{exc.filename or job.output}: {exc.strerror or exc}; what is done is kept in {results.path}, and "
                "the same command goes on there"
            ) from exc
        results.remove()
    return summary


async def _model(client: AsyncClient) -> tuple[dict[str, str] | None, list[str]]:
    """Name and version of the model, and its labels, where they can be asked for."""
    try:
        info = await client.info()
    except Unsupported:
        return None, []
    return {"name": info.model.name, "version": info.model.version}, info.model.labels


def _about(job: Job, model: Mapping[str, str] | None) -> dict[str, Any]:
    return {
        "format": 2,
        "input": fingerprint(job.source),
        "text_column": job.text_column,
        "options": dict(job.options),
        "all_scores": job.all_scores,
        "model": model,
    }


async def _answer(
    job: Job,
    source: Source,
    client: AsyncClient,
    results: Results,
    labels: list[str],
    model: Mapping[str, str] | None,
    watcher: Watcher,
    now: Callable[[], float],
) -> None:
    """Append the results of all rows that have none.

    Raises:
        OSError: of the disk.
        Interrupted: from anything else.
    """
    problems: deque[str] = deque()
    rows, flushed = results.done, now()
    try:
        texts = _texts(source, results.done, problems)
        answers = client.predict_many(texts, concurrency=job.concurrency, **job.options)
        async with aclosing(answers):
            async for outcome in answers:
                _check_model(outcome, model)
                results.append(result_of(outcome, problems.popleft(), labels))
                rows += 1
                if now() - flushed >= FLUSH_S:
                    results.flush()
                    flushed = now()
                    watcher.update(rows, min(source.share(), 0.999))
    except OSError:
        raise
    except BaseException as exc:  # cancellation, too
        results.flush()
        raise Interrupted(rows, results.path) from exc
    watcher.update(rows, 1.0)


def _check_model(outcome: Outcome, model: Mapping[str, str] | None) -> None:
    """Raises InputError: the service has changed its model since the run began."""
    if model is None or not isinstance(outcome, Prediction) or outcome.model is None:
        return
    if (outcome.model.name, outcome.model.version) != (model["name"], model["version"]):
        raise InputError(
            f"the service answers by the model {json.dumps(outcome.model.model_dump())} now, the run began with "
            f"{json.dumps(model)}; go back to that, or begin anew with --restart"
        )


async def _texts(source: Source, skip: int, problems: deque[str]) -> AsyncIterator[str]:
    """The texts after the first `skip` rows. A row without one goes as "": each then has one answer in its turn."""
    for number, row in enumerate(source.rows()):
        if number >= skip:
            problems.append(row.problem)
            yield row.text


def _write(job: Job, kind: str, source: Source, results: Results, added: Mapping[str, type], summary: Summary) -> None:
    """The output, from the input and the results."""
    unfinished = job.output.with_name(f".{job.output.name}.writing")
    try:
        _write_to(unfinished, job, kind, source, _counted(results, job.prefix, added, summary), added)
        unfinished.replace(job.output)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_to(
    path: Path, job: Job, kind: str, source: Source, found: Iterator[dict[str, Any]], added: Mapping[str, type]
) -> None:
    if kind == format_of(job.source) == "parquet":
        from client.files.parquet import ParquetSource, merge

        assert isinstance(source, ParquetSource)
        merge(source, found, added, path)
    else:
        sink = open_sink(path, kind, [*source.columns(), *added], added)
        try:
            for row, result in zip(source.rows(), found, strict=True):
                sink.write({**row.values, **result})
        finally:
            sink.close()


def _counted(results: Results, prefix: str, added: Mapping[str, type], summary: Summary) -> Iterator[dict[str, Any]]:
    """The added columns of every row, null where there is nothing."""
    for result in results.read():
        summary.rows += 1
        if "error_kind" in result:
            summary.failed[result["error_kind"]] += 1
        else:
            summary.labels[result["prediction"]] += 1
            summary.unsure += bool(result.get("unsure"))
        yield {name: result.get(name.removeprefix(prefix)) for name in added}
