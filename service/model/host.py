"""The machine as this process may use it: its CPUs, its memory, and the C library's memory allocator."""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
TRIM_THRESHOLD = 512 << 20

LOADING = 4 << 20
"""Bytes from which blocks are mapped while a model is loaded. Most float32 weights of GPT-2 small are larger, and they
are laid out and dropped one after the other: without this, its first start took 1.5 GB at most instead of 1.0 GB."""

SERVING = 32 << 20
"""Bytes from which blocks are mapped while a model answers; the largest value that glibc takes."""


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Return the number of CPUs that this process may use: by affinity or by the container's quota, the smaller.

    The quota is cgroup v2's `cpu.max` or v1's `cpu.cfs_quota_us`. A quota of 1.5 CPUs counts as 2: two lanes of one
    thread use all of it, since neither waits for the other.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return min(cpus, math.ceil(quota)) if quota else cpus


def available_memory(cgroup: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Return the bytes that this process may still take before the kernel ends it; None: unknown, as on macOS.

    It is what is left in the host (`MemAvailable`) or below the limit of a cgroup (v1 or v2) of this process or of one
    above it, whichever is least. The page cache of a cgroup counts as available, because the kernel gives it up first.
    """
    rooms = [_room_of_host(proc), *_rooms_of_cgroups(cgroup, proc)]
    return min((room for room in rooms if room is not None), default=None)


def machine() -> str:
    """Return the model of the CPU and how many of its cores this process may use."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # not Linux
        pass
    return f"{model}, {available_cpus()} CPUs"


def tune_allocator(mapped_from: int) -> bool:
    """Give freed memory back, and make the C library keep freed blocks below a size; return whether it could.

    By default glibc maps each block above a threshold (128 KiB at first) anew and unmaps it when it is freed, and every
    forward pays for the page faults. Freed blocks below the threshold stay in use of the process, so loading needs a
    small threshold (`LOADING`) and forwards a large one (`SERVING`). The variables `MALLOC_MMAP_THRESHOLD_` and
    `MALLOC_TRIM_THRESHOLD_` would set one for both, where the operator knows of them. See mallopt(3).

    Args:
        mapped_from: size in bytes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another C library, for example musl
        return False
    trim(0)
    return bool(mallopt(_M_MMAP_THRESHOLD, mapped_from)) and bool(mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD))


def bound_kernel_caches() -> bool:
    """Let oneDNN keep 128 kernels instead of 1,024, in each thread and for all, and return whether that worked.

    It makes a kernel for each shape of a bfloat16 product, and attention has one for each length of a text. Call this
    before the first product. The two variables of oneDNN and of its use in PyTorch win if the operator sets them.
    """
    try:
        setenv = ctypes.CDLL(None).setenv
    except (OSError, AttributeError):  # Windows
        return False
    names = (b"LRU_CACHE_CAPACITY", b"ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    return not any(setenv(name, b"128", 0) for name in names)


def _quota_v2(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    try:
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None


def _room_of_host(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _rooms_of_cgroups(cgroup: Path, proc: Path) -> Iterator[int | None]:
    """Yield what is left below the limit of each memory cgroup from the root to that of this process."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        version_1 = "memory" in controllers.split(",")
        if not version_1 and controllers:
            continue
        parts = Path(path).parts[1:]
        for count in range(len(parts) + 1):  # a container may see its own cgroup at the root, whatever its path says
            if version_1:
                directory = (cgroup / "memory").joinpath(*parts[:count])
                yield _room(directory, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            else:
                yield _room(cgroup.joinpath(*parts[:count]), "memory.max", "memory.current", "")


def _room(directory: Path, limit: str, usage: str, prefix: str) -> int | None:
    try:
        lines = (directory / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = {name: int(value) for name, value in map(str.split, lines)}
        cache = stat[f"{prefix}active_file"] + stat[f"{prefix}inactive_file"]
        left = int((directory / limit).read_text(encoding="ascii"))
        return left - int((directory / usage).read_text(encoding="ascii")) + cache
    except (OSError, ValueError, KeyError):  # "max": no limit
        return None
