"""Flags that the benchmarks share, and where their raw figures go."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.processes import ROOT, end_on_signals

GPT2_SMALL = "gpt2-small"
"""Instead of an artifact's directory: random weights in GPT-2 small's shape, see `benchmarks.artifacts`."""


def parser(description: str | None, *, artifact: str = GPT2_SMALL, rounds: int = 5) -> argparse.ArgumentParser:
    """With the flags that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--artifact", default=artifact, help=f"a directory, or {GPT2_SMALL} (default {artifact})")
    made.add_argument("--work", type=Path, default=ROOT / ".bench", help="for what is made once, and raw figures")
    made.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "bbc" / "bbc_original.csv")
    made.add_argument("--tokenizer", type=Path, default=ROOT.parent / "shared" / "data" / "gpt2-tokenizer")
    made.add_argument("--rounds", type=int, default=rounds, help=f"of all contestants in turn (default {rounds})")
    made.add_argument("--seed", type=int, default=0, help="of articles and arrivals")
    made.add_argument("--quick", action="store_true", help="a short run that shows that all works; no figures to quote")
    return made


def figures_directory(options: argparse.Namespace) -> Path:
    """Where raw figures are; those of short runs lie apart and never take the place of others."""
    work: Path = options.work / "quick" if options.quick else options.work
    return work


def save(options: argparse.Namespace, name: str, figures: dict[str, Any]) -> None:
    """Raw figures as NAME.json."""
    directory = figures_directory(options)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def load(directory: Path, name: str) -> dict[str, Any] | None:
    """Figures that were saved; None if there are none."""
    path = directory / f"{name}.json"
    if not path.is_file():
        return None
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def say(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a command: errors that the reader can act on are one line and exit code 2."""
    end_on_signals()
    try:
        main()
    except BenchmarkError as exc:
        say(f"error: {exc}")
        sys.exit(2)
