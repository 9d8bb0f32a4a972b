"""The options that the benchmarks share, and the files of their raw figures."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, end_on_signals
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.machine import command, describe

GPT2_SMALL = "gpt2-small"
"""Name of an artifact with random weights in the shape of GPT-2 small; see `benchmarks.tools.inputs`."""

WORK = ROOT / ".bench"
DEFAULT_ARTIFACT = ROOT / "models" / "default"


def parser(
    description: str | None, *, artifact: str | Path = GPT2_SMALL, rounds: int | None = 5
) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--artifact", default=str(artifact), help=f"a directory, or {GPT2_SMALL} (default {artifact})")
    made.add_argument("--work", type=Path, default=WORK, help="directory of raw figures and of what is made once")
    made.add_argument(
        "--data", type=Path, help="a CSV file with a column text; default: the BBC archive, downloaded once (3 MB)"
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"in which everything takes turns (default {rounds})")
    made.add_argument("--seed", type=int, default=0, help="decides which texts are drawn and when requests arrive")
    made.add_argument("--quick", action="store_true", help="a short run to see that everything works")
    return made


def figures_directory(options: argparse.Namespace) -> Path:
    """Return the directory of raw figures; short runs have their own and never replace the figures of full ones."""
    work: Path = options.work / "quick" if options.quick else options.work
    return work


def save(options: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    """Write raw figures to NAME.json."""
    directory = figures_directory(options)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def load(directory: Path, name: str) -> dict[str, Any] | None:
    """Return the raw figures that were saved under this name; None if there are none."""
    path = directory / f"{name}.json"
    if not path.is_file():
        return None
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def run_part(
    arguments: argparse.ArgumentParser,
    name: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    report: Callable[[dict[str, Any]], str],
    **quick: Any,
) -> None:
    """Run one part of the benchmarks: parse the options, measure, save the figures, print the results.

    Args:
        arguments: The part's parser.
        name: The name of its figures, in which {tokens} stands for the option of that name.
        measure: Returns raw figures.
        report: Returns the results as Markdown.
        quick: The options of a quick run.
    """
    options = arguments.parse_args()
    if options.quick:
        vars(options).update(quick)
    figures = {"machine": describe(), "command": command(), **measure(options)}
    save(options, name.format(**vars(options)), figures)
    print(report(figures))


def run(main: Callable[[], None]) -> None:
    """Run a command; a BenchmarkError becomes one line and exit code 2."""
    end_on_signals()
    try:
        main()
    except BenchmarkError as exc:
        say(f"error: {exc}")
        sys.exit(2)
