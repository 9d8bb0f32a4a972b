"""Run all benchmarks one after the other, then write results.md and results.png.

    python -m benchmarks                                  (make bench; make bench ARGS=--quick)
    python -m benchmarks --only engine,service
    python -m benchmarks --report-only                    from the figures of earlier runs

Each part runs in a process of its own. A part that fails does not stop the others; the exit code is then 1.
"""

import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.processes import ROOT, stop
from benchmarks.tools.command_line import WORK, figures_directory, parser, run, say
from benchmarks.tools.environments import DOWNLOAD_MB, is_made
from benchmarks.tools.errors import BenchmarkError
from benchmarks.tools.machine import command


@dataclass(frozen=True)
class Part:
    """One program of this package."""

    arguments: tuple[str, ...]
    """The module of the program, and options for it."""
    minutes: int
    """Duration of a full run on two cores."""
    quick_minutes: int
    environments: tuple[str, ...] = ()
    """Names of the environments that it installs."""


RUNTIMES, SERVERS = ("onnxruntime", "openvino"), ("litserve", "bentoml")
PARTS = {
    "engine": Part(("engine",), 45, 5, RUNTIMES),
    "engine128": Part(("engine", "--tokens", "128"), 15, 4, RUNTIMES),
    "service": Part(("service",), 60, 4, SERVERS),
    "low_load": Part(("low_load",), 2, 1),
    "start": Part(("start",), 25, 4, SERVERS),
    "overload": Part(("overload",), 4, 1),
    "shared_cpus": Part(("shared_cpus",), 4, 1),
}


def plan(names: list[str], options: Namespace) -> str:
    """Return what a run will do: how long it takes, what it installs and where its files go."""
    times = {name: PARTS[name].quick_minutes if options.quick else PARTS[name].minutes for name in names}
    total, work = sum(times.values()), options.work or WORK
    duration = f"{total} minutes" if total < 90 else f"{total / 60:.1f} hours"
    lines = [f"This takes about {duration} on two cores: {', '.join(f'{name} {n} min' for name, n in times.items())}."]
    wanted = dict.fromkeys(each for name in names for each in PARTS[name].environments)
    missing = ", ".join(f"{each} ({DOWNLOAD_MB[each]} MB)" for each in wanted if not is_made(work, each))
    if missing:
        lines.append(f"It first downloads and installs, once, in {work / 'venvs'}: {missing}.")
        lines.append("What cannot be installed is left out, and the results say so.")
    return "\n".join(lines)


def flags_of(options: Namespace) -> list[str]:
    """Return the options that are passed on to each part; one that was not given keeps the part's own default."""
    values = {name: getattr(options, name) for name in ("artifact", "work", "data", "rounds", "seed")}
    flags = [str(word) for name, value in values.items() if value is not None for word in (f"--{name}", value)]
    return [*flags, *(["--quick"] if options.quick else [])]


def measure(name: str, options: Namespace) -> bool:
    """Run one part and return whether it succeeded."""
    module, *own = PARTS[name].arguments
    say(f"== {name}")
    process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{module}", *own, *flags_of(options)], cwd=ROOT)
    try:
        return process.wait() == 0
    finally:
        stop(process)


def main() -> None:
    """Run the parts that are asked for."""
    arguments = parser(__doc__)
    arguments.set_defaults(artifact=None, work=None, rounds=None, seed=None)  # each part has its own default
    arguments.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}")
    arguments.add_argument("--report-only", action="store_true", help="measure nothing, write the results again")
    arguments.add_argument(
        "--output", type=Path, help="default: results.md in benchmarks/, or in .bench/quick if quick"
    )
    options = arguments.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise BenchmarkError(f"--only names no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    failed = []
    if not options.report_only:
        say(plan(names, options))
        failed = [name for name in names if not measure(name, options)]
    options.work = options.work or WORK
    figures = figures_directory(options)
    output = options.output or (figures if options.quick else ROOT / "benchmarks") / "results.md"
    results.write(figures, output, command())
    print(output)
    if failed:
        say(f"failed: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    run(main)
