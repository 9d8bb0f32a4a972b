"""What a process takes of the machine: memory, descriptors, threads, processor time. Linux."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """A process at one moment."""

    done: int
    """Requests that were answered before."""
    rss_kib: int
    descriptors: int
    threads: int
    cpu_s: float


def sample(pid: int, done: int) -> Sample:
    """Raises OSError if there is no such process."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line)
    return Sample(
        done=done,
        rss_kib=int(status.get("VmRSS", "0 kB").split()[0]),
        descriptors=len(os.listdir(process / "fd")),
        threads=int(status.get("Threads", "0")),
        cpu_s=cpu_seconds(pid),
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def growth(samples: Sequence[Sample], settled_after: int) -> float | None:
    """By which share the memory grew since it had settled; None if there are too few samples to say.

    The median of the last tenth of the samples against the median of the first tenth after `settled_after` requests:
    a single sample may fall on a moment with a large batch.
    """
    settled = [one.rss_kib for one in samples if one.done >= settled_after]
    tenth = len(settled) // 10
    if tenth < 1:
        return None
    return median(settled[-tenth:]) / median(settled[:tenth]) - 1
