"""`python -m benchmarks.soak`: mixed requests, or one endless stream, against the real service. Linux.

    python -m benchmarks.soak --quick                      2,000 requests, half a minute
    python -m benchmarks.soak --requests 100000            the whole soak, a quarter of an hour
    python -m benchmarks.soak stream --lines 200000        one /batch call of many lines, three minutes
    python -m benchmarks.soak attacks                      other callers beside attacks, ten minutes

Exit code 0: every promise was kept; 1: at least one was broken, the summary names it; 2: the soak could not run.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak import attacks, mixed, streaming, tally
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, WORK, run

QUICK = {"requests": 2_000, "texts": 300, "clients": 16, "lines": 5_000, "seconds": 5}
FULL = {"requests": 100_000, "texts": 4_000, "clients": 24, "lines": 200_000, "seconds": 20}
SOAKS = {"mixed": mixed.soak, "stream": streaming.soak, "attacks": attacks.soak}
MEANINGS = {
    "requests": "requests in all",
    "texts": "different texts",
    "clients": "clients at the same time",
    "lines": "stream: lines of the one call",
    "seconds": "attacks: length of each",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; numbers that are not given have the defaults of a full or a quick run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=tuple(SOAKS), default="mixed")
    for name, meaning in MEANINGS.items():
        parser.add_argument(f"--{name}", type=int, help=f"{meaning} (default {FULL[name]}, quick {QUICK[name]})")
    parser.add_argument("--seed", type=int, default=0, help="decides texts and requests")
    parser.add_argument("--quick", action="store_true", help="a short run")
    parser.add_argument("--artifact", type=Path, default=DEFAULT_ARTIFACT, help="the model's directory")
    parser.add_argument("--work", type=Path, default=WORK, help="directory of the service's log and the summary")
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
        figures, promises = SOAKS[options.what](options)
        figures["command"] = " ".join(["python -m benchmarks.soak", *arguments])
        kept = tally.write(options.work, f"soak-{options.what}", figures, promises)

    run(measure)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
