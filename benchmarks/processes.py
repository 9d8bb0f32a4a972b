"""Processes that a benchmark starts, waits for, measures, and always ends, children included. Linux."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.tools.errors import Unavailable

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 15.0
"""Seconds between SIGTERM and SIGKILL."""

GONE_S = 10.0
"""Seconds that killed processes may take to disappear."""


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_on_signals() -> None:
    """Let the first SIGTERM or Ctrl-C raise SystemExit, so that what was started is ended; ignore further ones."""

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
    """Run a process in the repository's root; at the end it and all its descendants are gone.

    Args:
        command: Program and arguments.
        log: The file that takes standard output and standard error.
        environment: Variables to add to this process's environment, from which those of the service are removed.
        pipes: Connect standard input and output to this process; the log then takes standard error only.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SERVICE_", "SAGEMAKER_"))}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile all imported modules, torch included
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**inherited, **(environment or {})},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C at the terminal reaches the benchmark alone, which ends its children
        )
    try:
        yield process
    finally:
        stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # input that the process did not read
                    pipe.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, wait, and send SIGKILL to the rest of the process, its descendants and its session."""
    family = _family(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    family |= _family(process.pid)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    deadline = time.monotonic() + GONE_S
    while any(map(_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.01)


def _family(pid: int) -> set[psutil.Process]:
    """Return the process, its descendants and the members of the session that it leads."""
    family = {each for each in psutil.process_iter() if _session(each.pid) == pid}
    with suppress(psutil.NoSuchProcess):
        family |= {psutil.Process(pid), *psutil.Process(pid).children(recursive=True)}
    return family


def _alive(process: psutil.Process) -> bool:
    """Return whether it still runs; a zombie, which only waits to be reaped by its parent, does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _session(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None


def last_line(log: Path) -> str:
    """Return the last line of a process's log, which often says why the process ended."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"


def peak_rss_mib(pid: int) -> float:
    """Return the peak memory of a process and its descendants in MiB: the sum of VmHWM of those that are alive.

    Pages that several processes share count in each of them; for the service, one process, the figure is exact.
    """
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return sum(_high_water_kib(each) for each in family) / 1024


def wait_for_status(process: subprocess.Popen[bytes], port: int, path: str, *, limit_s: float, every_s: float) -> float:
    """Return the seconds from the call until GET `path` answers 200.

    Each attempt opens a plain socket, so that waiting takes nearly no processor time from the starting process.

    Raises:
        Unavailable: the process ended, or the limit is over.
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


def _high_water_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
