"""The command line of the client: predict, classify, watch, info, ready.

Exit codes: 0 done; 1 done, but a text or rows have no answer (it is said which); 2 the arguments or the input cannot be
used; 3 the service did not answer, or with an error; 130 interrupted.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from client.cli.live import Figures
from client.cli.watch import lines, once, plain, watch
from client.client import CONCURRENCY, READY_S, AsyncClient, Client
from client.errors import BadText, ClientError, ConfigurationError, TooLarge, Unsupported
from client.files.classify import Interrupted, Job, Summary, classify
from client.files.progress import Progress
from client.models import Prediction
from client.settings import API_KEY, DEFAULT_URL, URL
from client.transport.retry import Retry
from client.transport.wire import OptionFields

NO_ANSWER = 1
INPUT_ERROR = 2
SERVICE_ERROR = 3
INTERRUPTED = 130

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
        cause = exc.__cause__
        if not isinstance(cause, ClientError):
            if not isinstance(cause, asyncio.CancelledError | KeyboardInterrupt):
                raise
            sys.stderr.write(f"interrupted; {exc}\n")
            return INTERRUPTED
        return _failed(cause, parsed, f"; {exc}")
    except ClientError as exc:
        return _failed(exc, parsed)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _failed(error: ClientError, parsed: argparse.Namespace, more: str = "") -> int:
    sys.stderr.write(f"error: {error}{more}\n")
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

    predict = _command(commands, "predict", _predict, "classify one text")
    predict.add_argument("text", help="the text; - reads standard input to its end")
    _add_options(predict)
    predict.add_argument("--spans", action="store_true", help="also each window of a long text")
    predict.add_argument("--explain", action="store_true", help="also each sentence's share in the answer")

    job = _command(commands, "classify", _classify, "classify a file of texts: CSV, TSV, JSON Lines or Parquet")
    job.add_argument("source", type=Path, metavar="FILE", help="its format is known by its ending, as the output's")
    job.add_argument("--output", type=Path, required=True, help="the input's columns and those of the answers")
    job.add_argument("--text-column", default="text", help="default: text")
    _add_options(job)
    job.add_argument("--all-scores", action="store_true", help="a column for each label's probability, too")
    job.add_argument("--prefix", default="", help="before the names of the added columns")
    job.add_argument(
        "--concurrency",
        type=_at_least_one,
        default=CONCURRENCY,
        help=f"requests at a time, at most; default {CONCURRENCY}",
    )
    job.add_argument(
        "--patience",
        type=_seconds,
        default=120,
        metavar="S",
        help="seconds to wait for a service in trouble; default 120",
    )
    job.add_argument("--restart", action="store_true", help="forget what an interrupted run has done")
    job.add_argument("--overwrite", action="store_true", help="replace an output that is there")

    live = _command(commands, "watch", _watch, "live figures of the service")
    live.add_argument("--interval", type=_seconds, default=2.0, metavar="S", help="seconds between readings; default 2")
    live.add_argument("--once", action="store_true", help="one interval only")

    _command(commands, "info", _info, "what is served, and its limits")
    ready = _command(commands, "ready", _ready, "wait until the service answers predictions")
    ready.add_argument("--timeout", type=float, default=READY_S, metavar="S", help=f"seconds; default {READY_S:g}")
    return parser


def _command(commands: Any, name: str, call: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--url", help=f"of the service; default: {URL}, else {DEFAULT_URL}")
    command.add_argument("--api-key", help=f"default: {API_KEY}, which other users of the machine do not see")
    command.add_argument("--json", action="store_true", help="JSON on standard output, errors too")
    command.set_defaults(command=call)
    return command


def _at_least_one(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1, is {text!r}")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= MOST_S:  # nor nan
        raise argparse.ArgumentTypeError(f"must be from above 0 to {MOST_S:g} seconds, is {text!r}")
    return value


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--top-k", type=int, help="only the k most probable labels; default: all")
    command.add_argument(
        "--on-long",
        choices=("windows", "truncate", "error"),
        help="texts longer than the model reads at once; default: what the model says",
    )
    command.add_argument("--timeout-ms", type=int, help="time for each request; default: the service's")


def _options(parsed: argparse.Namespace) -> OptionFields:
    """Those that were given."""
    given = ((name, getattr(parsed, name, None)) for name in OptionFields.__annotations__)
    return {name: value for name, value in given if not (value is None or value is False)}  # type: ignore[return-value]


def _client(parsed: argparse.Namespace) -> Client:
    return Client(parsed.url, api_key=parsed.api_key, retry=IMPATIENT)


def _predict(parsed: argparse.Namespace) -> int:
    text = _standard_input() if parsed.text == "-" else parsed.text
    with _client(parsed) as client:
        answer = client.predict(text, **_options(parsed))
    if parsed.json:
        _print_json(answer.model_dump(mode="json", exclude_none=True))
    else:
        print("\n".join(_shown(answer)))
    return 0


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"standard input is not UTF-8: {exc}") from None


def _shown(answer: Prediction) -> list[str]:
    """Label and probability a line, then what else there is to know."""
    width = max(len(score.label) for score in answer.scores)
    shown = [f"{score.label:<{width}}  {score.score:.4f}" for score in answer.scores]
    if answer.unsure:
        shown.append("unsure: the best probability is below the model's threshold")
    if answer.truncated:
        shown.append(f"truncated: {answer.tokens_read} of {answer.tokens} tokens were read")
    shown += [f"characters {s.start}-{s.end}: {s.label} {s.score:.4f}" for s in answer.spans or ()]
    if answer.explanation is not None:
        shown += [
            f"characters {s.start}-{s.end}: " + ("-" if s.contribution is None else f"{s.contribution:+.4f}")
            for s in answer.explanation.sentences
        ]
    return shown


def _classify(parsed: argparse.Namespace) -> int:
    job = Job(
        parsed.source,
        parsed.output,
        parsed.text_column,
        _options(parsed),
        parsed.concurrency,
        parsed.all_scores,
        parsed.prefix,
        parsed.restart,
        parsed.overwrite,
    )
    summary = asyncio.run(_run(job, parsed))
    if parsed.json:
        _print_json(summary.as_json())
    else:
        print("\n".join(_told(job, summary)))
    return NO_ANSWER if summary.failed else 0


async def _run(job: Job, parsed: argparse.Namespace) -> Summary:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # as Ctrl-C
    retry = Retry(total_s=parsed.patience, tries=UNLIMITED_TRIES)
    with Progress() as progress:
        async with AsyncClient(parsed.url, api_key=parsed.api_key, retry=retry) as client:
            return await classify(job, client, progress)


def _told(job: Job, summary: Summary) -> list[str]:
    """What came out, for a person."""
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
        if parsed.once:
            found = once(client, parsed.interval)
            if parsed.json:
                _print_json(found.as_json())
            else:
                print("\n".join(f"{name:<16} {value}" for name, value in lines(found)))
        elif sys.stdout.isatty() and not parsed.json:
            _watch_live(client, parsed.interval)
        else:
            show = (lambda f: _print_json(f.as_json(), indent=None)) if parsed.json else (lambda f: print(plain(f)))
            watch(client, parsed.interval, show)
    return 0


def _watch_live(client: Client, interval_s: float) -> None:
    from rich.live import Live
    from rich.table import Table

    def table(found: Figures) -> Table:
        shown = Table(title=client.url, show_header=False)
        for name, value in lines(found):
            shown.add_row(name, value)
        return shown

    with Live(auto_refresh=False) as screen:
        watch(client, interval_s, lambda found: screen.update(table(found), refresh=True))


def _info(parsed: argparse.Namespace) -> int:
    with _client(parsed) as client:
        info = client.info()
    if parsed.json:
        _print_json(info.model_dump(mode="json"))
        return 0
    model = info.model
    print(
        f"model    {model.name} {model.version}, reads {model.max_tokens} tokens at once, long texts: {model.on_long}"
    )
    print(f"labels   {', '.join(model.labels)}")
    print(f"service  {info.service}")
    for name, value in info.limits:
        print(f"  {name} = {value}")
    return 0


def _ready(parsed: argparse.Namespace) -> int:
    with _client(parsed) as client:
        seconds = client.ready(parsed.timeout)
    if parsed.json:
        _print_json({"ready": True, "waited_s": round(seconds, 3)})
    else:
        print(f"ready after {seconds:.1f} s")
    return 0


def _print_json(value: Any, indent: int | None = 2) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=indent), flush=True)


if __name__ == "__main__":
    sys.exit(main())
