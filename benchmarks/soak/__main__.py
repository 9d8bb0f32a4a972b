"""`python -m benchmarks.soak`: mixed requests, or one endless stream, against the real service. Linux.

    python -m benchmarks.soak --quick                      two thousand requests, half a minute
    python -m benchmarks.soak --requests 100000            the whole soak, a quarter of an hour
    python -m benchmarks.soak stream --lines 200000        one /batch call of many lines, three minutes

Exit code 0: every promise was kept; 1: at least one was broken, the summary says which; 2: it could not be run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.options import run
from benchmarks.processes import ROOT
from benchmarks.soak import mixed, report, streaming

QUICK = {"requests": 2_000, "texts": 300, "clients": 16, "lines": 5_000}
FULL = {"requests": 100_000, "texts": 4_000, "clients": 24, "lines": 200_000}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, with the numbers filled in that it does not give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("mixed", "stream"), default="mixed")
    parser.add_argument("--requests", type=int, help=f"mixed: how many (default {FULL['requests']})")
    parser.add_argument("--texts", type=int, help=f"mixed: different ones (default {FULL['texts']})")
    parser.add_argument("--clients", type=int, help=f"mixed: at the same time (default {FULL['clients']})")
    parser.add_argument("--lines", type=int, help=f"stream: of the one call (default {FULL['lines']})")
    parser.add_argument("--seed", type=int, default=0, help="of texts and requests")
    parser.add_argument("--quick", action="store_true", help=f"smaller defaults: {QUICK}")
    parser.add_argument("--artifact", type=Path, default=ROOT / "models" / "default", help="the model's directory")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", help="for the service's log and the summary")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run one soak; return the exit code."""
    options = parse(arguments)
    kept = False

    def measure() -> None:
        nonlocal kept
        figures, promises = mixed.soak(options) if options.what == "mixed" else streaming.soak(options)
        figures["command"] = " ".join(["python -m benchmarks.soak", *arguments])
        kept = report.write(options.work, f"soak-{options.what}", figures, promises)

    run(measure)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
