"""Processes that a benchmark starts: begun, waited for, measured, and always ended, children included. Linux."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from benchmarks.errors import Unavailable

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 15.0
"""Seconds between SIGTERM and SIGKILL."""

GONE_S = 10.0
"""Seconds that what was killed may take to vanish."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_on_signals() -> None:
    """Let SIGTERM and Ctrl-C unwind the stack once, so that what was started is ended; more of them change nothing."""

    def leave(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, leave)


@contextmanager
def running(
    command: Sequence[str | Path], *, log: Path, environment: Mapping[str, str] | None = None, pipes: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the repository's root; at the end it and all its descendants are gone.

    Args:
        command: what to run.
        log: takes standard output and standard error.
        environment: added to our own, in which nothing of the service's is left.
        pipes: standard input and output are pipes to us, and the log takes standard error only.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SERVICE_", "SAGEMAKER_"))}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile what it imports, torch and all
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**inherited, **(environment or {})},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            start_new_session=True,  # what it leaves behind can be found by the session
        )
    try:
        yield process
    finally:
        stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # of input that nobody took
                    pipe.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, a while, then SIGKILL to what is left of it, its descendants and its session; returns when all are
    gone."""
    family = _alive(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    family |= _alive(process.pid)
    for pid, started in family.items():
        if _started(pid) == started:  # else the number belongs to somebody else by now
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + GONE_S
    while any(_started(pid) == started for pid, started in family.items()) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(pid: int) -> dict[int, str]:
    """The process, its descendants and all of the session that it leads, each with its start."""
    family = {pid, *descendants(pid), *(each for each, fields in _table().items() if fields[3] == str(pid))}
    return {each: started for each in family if (started := _started(each))}


def last_line(log: Path) -> str:
    """What a process said last; often why it ended."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"


def descendants(pid: int) -> list[int]:
    """Children, their children and so on; without `pid` itself."""
    parents: dict[int, list[int]] = {}
    for each, fields in _table().items():
        parents.setdefault(int(fields[1]), []).append(each)
    found, open_ends = [], [pid]
    while open_ends:
        children = parents.get(open_ends.pop(), [])
        found += children
        open_ends += children
    return found


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process and its descendants ever had, in MiB: the sum of VmHWM of those that live.

    Pages that several processes share count in each; the service has one process, for which this is exact.
    """
    return sum(_high_water_kib(each) for each in [pid, *descendants(pid)]) / 1024


def wait_for_status(process: subprocess.Popen[bytes], port: int, path: str, *, limit_s: float, every_s: float) -> float:
    """Seconds until GET `path` answers 200, counted from the call.

    A connection each time, by the simplest means: the waiting should cost the starting process nothing.

    Raises:
        Unavailable: the process ended, or the time is up.
    """
    started = time.perf_counter()
    while True:
        if process.poll() is not None:
            raise Unavailable(f"ended by itself with exit code {process.returncode}")
        if _status(port, path) == 200:
            return time.perf_counter() - started
        if time.perf_counter() - started > limit_s:
            raise Unavailable(f"{path} did not answer 200 within {limit_s:.0f} s")
        time.sleep(every_s)


def _status(port: int, path: str) -> int | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return int(connection.recv(4096).split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        return None


def _table() -> dict[int, list[str]]:
    """Every process of the machine: its fields as `_stat` gives them."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid: fields for pid in pids if (fields := _stat(pid))}


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def _started(pid: int) -> str | None:
    """When it started, in clock ticks since boot; None if it is gone or only waits to be reaped."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _high_water_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
