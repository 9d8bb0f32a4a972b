"""The command line of the client: predict, classify, watch, info, ready.

Exit codes: 0 done; 1 done, but a text or some rows have no answer (the output says which); 2 the arguments or the input
cannot be used; 3 the service did not answer, or answered with an error; 130 interrupted.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from client.async_client import CONCURRENCY, READY_S, AsyncClient
from client.cli.live import Activity, activity
from client.client import Client
from client.errors import BadText, ClientError, ConfigurationError, TooLarge, Unsupported
from client.files.classify import Interrupted, Job, Summary, classify
from client.files.progress import Progress
from client.models import Prediction
from client.settings import API_KEY, DEFAULT_URL, URL
from client.transport.messages import OptionFields, given
from client.transport.retry import Retry

NO_ANSWER, INPUT_ERROR, SERVICE_ERROR, INTERRUPTED = 1, 2, 3, 130

UNLIMITED_TRIES = 1_000_000
MOST_S = 1e7

IMPATIENT = Retry(total_s=30, tries=3)
"""For a person who waits."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except Interrupted as exc:
        cause, kept = exc.__cause__, f"; {exc}"
    except (ClientError, KeyboardInterrupt, asyncio.CancelledError) as exc:
        cause, kept = exc, ""
    if isinstance(cause, ClientError):
        return _failed(cause, parsed, kept)
    if not isinstance(cause, asyncio.CancelledError | KeyboardInterrupt):
        raise cause or AssertionError("an interruption has a cause")
    sys.stderr.write(f"interrupted{kept}\n")
    return INTERRUPTED


def _failed(error: ClientError, parsed: argparse.Namespace, kept: str) -> int:
    sys.stderr.write(f"error: {error}{kept}\n")
    if parsed.json:
        _print_json({"error": str(error), "type": type(error).__name__, "kind": getattr(error, "kind", "")})
    if isinstance(error, ConfigurationError | Unsupported):
        return INPUT_ERROR
    return NO_ANSWER if isinstance(error, BadText | TooLarge) else SERVICE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m client", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add = _command(commands, "predict", _predict, "classify one text")
    add("text", help="the text; - reads standard input to its end")
    _add_options(add)
    add("--spans", action="store_true", help="also show each window of a long text")
    add("--explain", action="store_true", help="also show each sentence's share in the answer")

    add = _command(commands, "classify", _classify, "classify a file of texts: CSV, TSV, JSON Lines or Parquet")
    add("source", type=Path, metavar="FILE", help="its ending names its format, as the output's does")
    add("--output", type=Path, required=True, help="gets the input's columns and those of the answers")
    add("--text-column", default="text", help="default: text")
    _add_options(add)
    add("--all-scores", action="store_true", help="also add a column for each label's probability")
    add("--prefix", default="", help="put this before the names of the added columns")
    add("--spreadsheet-safe", action="store_true", help="CSV, TSV: put an apostrophe before what may be a formula")
    add("--concurrency", type=_at_least_one, default=CONCURRENCY, help="most requests at a time; default: %(default)s")
    add("--patience", type=_seconds, default=120, metavar="S", help="seconds to wait for a service; default: 120")
    add("--restart", action="store_true", help="forget what an interrupted run has done")
    add("--overwrite", action="store_true", help="replace an existing output")

    add = _command(commands, "watch", _watch, "show what the service does right now")
    add("--interval", type=_seconds, default=2.0, metavar="S", help="seconds between readings; default: 2")
    add("--once", action="store_true", help="show one interval only")

    _command(commands, "info", _info, "show the model in service, and the service's limits")
    add = _command(commands, "ready", _ready, "wait until the service answers predictions")
    add("--timeout", type=float, default=READY_S, metavar="S", help="seconds; default: %(default)g")
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., Any]:
    """Add a command; return what adds its arguments."""
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--url", help=f"the service's URL; default: {URL}, else {DEFAULT_URL}")
    command.add_argument("--api-key", help=f"default: {API_KEY}, which other users of the machine do not see")
    command.add_argument("--json", action="store_true", help="write JSON to standard output, errors too")
    command.set_defaults(command=run)
    add: Callable[..., Any] = command.add_argument
    return add


def _add_options(add: Callable[..., Any]) -> None:
    add("--top-k", type=int, help="only the k most probable labels; default: all")
    on_long = "how to read texts longer than the model reads at once; default: the model's setting"
    add("--on-long", choices=("windows", "truncate", "error"), help=on_long)
    add("--timeout-ms", type=int, help="time for each request; default: the service's")


def _at_least_one(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1, is {text!r}")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_S:  # not-a-number fails here, too
        raise argparse.ArgumentTypeError(f"must be from above 0 to {MOST_S:g} seconds, is {text!r}")
    return value


def _options(parsed: argparse.Namespace) -> OptionFields:
    options = {name: getattr(parsed, name, None) for name in OptionFields.__annotations__}
    return given(options)  # type: ignore[arg-type, return-value]


def _client(parsed: argparse.Namespace) -> Client:
    return Client(parsed.url, api_key=parsed.api_key, retry=IMPATIENT)


def _answer(parsed: argparse.Namespace, as_json: Any, lines: Sequence[str]) -> None:
    if parsed.json:
        _print_json(as_json)
    else:
        print("\n".join(lines))


def _predict(parsed: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if parsed.text == "-" else parsed.text
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"standard input is not UTF-8: {exc}") from None
    with _client(parsed) as client:
        answer = client.predict(text, **_options(parsed))
    _answer(parsed, answer.model_dump(mode="json", exclude_none=True), _shown(answer))
    return 0


def _shown(answer: Prediction) -> list[str]:
    """Return a line for each label and its probability, then lines for what else is known."""
    width = max(len(score.label) for score in answer.scores)
    shown = [f"{score.label:<{width}}  {score.score:.4f}" for score in answer.scores]
    if answer.unsure:
        shown.append("unsure: the best probability is below the model's threshold")
    if answer.truncated:
        shown.append(f"truncated: {answer.tokens_read} of {answer.tokens} tokens were read")
    shown += [f"characters {s.start}-{s.end}: {s.label} {s.score:.4f}" for s in answer.spans or ()]
    for s in answer.explanation.sentences if answer.explanation else ():
        shown.append(f"characters {s.start}-{s.end}: " + ("-" if s.contribution is None else f"{s.contribution:+.4f}"))
    return shown


def _classify(parsed: argparse.Namespace) -> int:
    same_names = (field.name for field in fields(Job) if field.name != "options")
    job = Job(options=_options(parsed), **{name: getattr(parsed, name) for name in same_names})

    async def run() -> Summary:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C
        retry = Retry(total_s=parsed.patience, tries=UNLIMITED_TRIES)
        with Progress() as progress:
            async with AsyncClient(parsed.url, api_key=parsed.api_key, retry=retry) as client:
                return await classify(job, client, progress)

    summary = asyncio.run(run())
    _answer(parsed, summary.as_json(), _told(job, summary))
    return NO_ANSWER if summary.failed else 0


def _told(job: Job, summary: Summary) -> list[str]:
    """Return the result of a run for a person."""
    rate = summary.as_json()["rows_per_s"]
    told = [f"{job.output}: {summary.rows} rows in {summary.seconds:.1f} s ({rate} rows/s)"]
    if summary.resumed_at:
        told[0] += f", {summary.resumed_at} of them by an earlier run"
    told += [f"  {label}: {count}" for label, count in summary.labels.most_common()]
    if summary.unsure:
        told.append(f"  unsure: {summary.unsure}")
    if summary.failed:
        told.append(f"without a label: {sum(summary.failed.values())}; the columns error_kind and error say why")
        told += [f"  {kind}: {count}" for kind, count in summary.failed.most_common()]
    return told


def _watch(parsed: argparse.Namespace) -> int:
    with _client(parsed) as client:
        activities = activity(client, parsed.interval)
        if parsed.once:
            found = next(activities)
            _answer(parsed, asdict(found), [f"{name:<16} {value}" for name, value in found.lines()])
        elif sys.stdout.isatty() and not parsed.json:
            _watch_live(client.url, activities)
        else:
            for found in activities:
                if parsed.json:
                    _print_json(asdict(found), indent=None)
                else:
                    print("; ".join(f"{name}={value}" for name, value in found.lines()), flush=True)
    return 0


def _watch_live(url: str, activities: Iterator[Activity]) -> None:
    from rich.live import Live
    from rich.table import Table

    with Live(auto_refresh=False) as screen:
        for found in activities:
            table = Table(title=url, show_header=False)
            for row in found.lines():
                table.add_row(*row)
            screen.update(table, refresh=True)


def _info(parsed: argparse.Namespace) -> int:
    with _client(parsed) as client:
        info = client.info()
    m = info.model
    lines = [
        f"model    {m.name} {m.version}, reads {m.max_tokens} tokens at once, long texts: {m.on_long}",
        f"labels   {', '.join(m.labels)}",
        f"service  {info.service}",
        *(f"  {name} = {value}" for name, value in info.limits),
    ]
    _answer(parsed, info.model_dump(mode="json"), lines)
    return 0


def _ready(parsed: argparse.Namespace) -> int:
    with _client(parsed) as client:
        seconds = client.ready(parsed.timeout)
    _answer(parsed, {"ready": True, "waited_s": round(seconds, 3)}, [f"ready after {seconds:.1f} s"])
    return 0


def _print_json(value: Any, indent: int | None = 2) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=indent), flush=True)
