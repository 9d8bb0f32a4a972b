"""All benchmarks one after the other, then results.md and results.png beside this file.

    python -m benchmarks                                  (make bench; make bench ARGS="--quick")
    python -m benchmarks --only engine,service
    python -m benchmarks --report-only                    from the figures of earlier runs

Each part runs in a process of its own. A part that fails does not stop the others; the exit code is then 1.
"""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.machine import command
from benchmarks.options import figures_directory, parser, run, say
from benchmarks.processes import ROOT, stop

PARTS: dict[str, tuple[str, ...]] = {
    "engine": ("engine",),
    "engine128": ("engine", "--tokens", "128"),
    "service": ("service",),
    "low_load": ("low_load",),
    "start": ("start",),
    "overload": ("overload",),
}


def flags_of(options: Namespace) -> list[str]:
    """What is passed on to each part; a flag left at its default is the part's own to choose."""
    flags = []
    for name in ("artifact", "work", "data", "tokenizer", "rounds", "seed"):
        value = getattr(options, name)
        if value is not None:
            flags += [f"--{name}", str(value)]
    return [*flags, *(["--quick"] if options.quick else [])]


def measure(name: str, options: Namespace) -> bool:
    """Run one part; True if it went well."""
    module, *own = PARTS[name]
    say(f"== {name}")
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{module}", *own, *flags_of(options)], cwd=ROOT)
    try:
        return process.wait() == 0
    finally:
        stop(process)


def main() -> None:
    arguments = parser(__doc__)
    # None: not given
    arguments.set_defaults(artifact=None, work=None, data=None, tokenizer=None, rounds=None, seed=None)
    arguments.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}")
    arguments.add_argument("--report-only", action="store_true", help="measure nothing, write the results again")
    arguments.add_argument(
        "--output", type=Path, help="default: benchmarks/results.md; .bench/quick/results.md if quick"
    )
    options = arguments.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise BenchmarkError(f"--only: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    failed = [] if options.report_only else [name for name in names if not measure(name, options)]
    options.work = options.work or ROOT / ".bench"
    figures = figures_directory(options)
    output = options.output or (figures / "results.md" if options.quick else ROOT / "benchmarks" / "results.md")
    report.write(figures, output, command())
    print(output)
    if failed:
        say(f"failed: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    run(main)
