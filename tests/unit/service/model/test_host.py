import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.model.host import SERVING, available_cpus, available_memory, tune_allocator
from tests.support import ROOT


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("content", "cpus"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_quota_of_cgroup_v2(tmp_path: Path, content: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(content, encoding="ascii")
    assert available_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("300000", 3)])
def test_quota_of_cgroup_v1(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota, encoding="ascii")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert available_cpus(tmp_path) == cpus


def test_no_or_odd_cgroup_leaves_the_affinity(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none") == 8
    (tmp_path / "cpu.max").write_text("odd", encoding="ascii")
    assert available_cpus(tmp_path) == 8


MIB = 1 << 20
NO_LIMIT_V1 = 0x7FFFFFFFFFFFF000


def write(directory: Path, files: dict[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(f"{content}\n", encoding="ascii")


def host(proc: Path, available_mib: int, *cgroups: str) -> Path:
    write(proc, {"meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available_mib * 1024} kB"})
    write(proc / "self", {"cgroup": "\n".join(cgroups)})
    return proc


def v2(directory: Path, limit: object, used_mib: int, cache_mib: int = 0) -> None:
    stat = f"anon 1\ninactive_file {cache_mib * MIB}\nactive_file 0\nshmem 7"
    write(directory, {"memory.max": limit, "memory.current": used_mib * MIB, "memory.stat": stat})


def v1(directory: Path, limit: int, used_mib: int, cache_mib: int) -> None:
    stat = f"inactive_file 7\nactive_file 7\ntotal_inactive_file 0\ntotal_active_file {cache_mib * MIB}"
    write(directory, {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used_mib * MIB, "memory.stat": stat})


def mib(root: Path) -> float | None:
    found = available_memory(root / "cgroup", root / "proc")
    return None if found is None else found / MIB


def test_memory_of_the_host_where_no_cgroup_has_a_limit(tmp_path: Path) -> None:
    host(tmp_path / "proc", 700, "0::/user.slice")
    v2(tmp_path / "cgroup" / "user.slice", "max", 300)
    assert mib(tmp_path) == 700


@pytest.mark.parametrize("path", ["/", "/kubepods/pod1/container", "/../../elsewhere"])
def test_memory_of_a_container_of_cgroup_v2(tmp_path: Path, path: str) -> None:
    """Its own cgroup is at the root, whatever its path says; the page cache can be given up."""
    host(tmp_path / "proc", 4000, f"0::{path}")
    v2(tmp_path / "cgroup", 1000 * MIB, used_mib=800, cache_mib=300)
    assert mib(tmp_path) == 500


def test_the_least_of_the_cgroups_above_counts(tmp_path: Path) -> None:
    host(tmp_path / "proc", 4000, "0::/a/b")
    v2(tmp_path / "cgroup" / "a", 1000 * MIB, used_mib=900)
    v2(tmp_path / "cgroup" / "a" / "b", 800 * MIB, used_mib=200)
    assert mib(tmp_path) == 100


def test_memory_of_cgroup_v1(tmp_path: Path) -> None:
    host(tmp_path / "proc", 4000, "9:name=systemd:/x", "4:cpu,memory:/docker/1", "0::/")
    v1(tmp_path / "cgroup" / "memory", NO_LIMIT_V1, 3000, 0)
    v1(tmp_path / "cgroup" / "memory" / "docker" / "1", 1000 * MIB, 900, 150)
    assert mib(tmp_path) == 250


def test_the_host_may_have_less_than_the_container_is_allowed(tmp_path: Path) -> None:
    host(tmp_path / "proc", 100, "0::/")
    v2(tmp_path / "cgroup", 1000 * MIB, used_mib=200)
    assert mib(tmp_path) == 100


def test_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    assert mib(tmp_path) is None
    host(tmp_path / "proc", 1, "odd")
    (tmp_path / "proc" / "meminfo").write_text("odd", encoding="ascii")
    assert mib(tmp_path) is None


MAPPED = """
import ctypes, sys
from service.model import host
tuned = host.tune_allocator(getattr(host, sys.argv[1])) if sys.argv[1:] else None
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
before = libc.mallinfo2().hblks
assert libc.malloc(ctypes.c_size_t(8 << 20))
print(tuned, libc.mallinfo2().hblks - before)
"""


def has_mallinfo() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.mark.skipif(not has_mallinfo(), reason="needs glibc 2.33 or newer, which tells how it got a block")
def test_blocks_are_mapped_while_loading_and_come_from_the_heap_while_serving() -> None:
    def run(*threshold: str) -> str:
        command = [sys.executable, "-c", MAPPED, *threshold]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert run() == "None 1"
    assert run("LOADING") == "True 1"
    assert run("SERVING") == "True 0"


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tune_allocator(SERVING) is False


CACHES = """
import ctypes
from service.model.host import bound_kernel_caches
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
print(bound_kernel_caches(), libc.getenv(b"LRU_CACHE_CAPACITY"), libc.getenv(b"ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no setenv")
def test_kernel_caches_are_bounded_unless_the_operator_says_how() -> None:
    command = [sys.executable, "-c", CACHES]
    environment = {"PATH": "", "LRU_CACHE_CAPACITY": "7"}
    result = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "True b'7' b'128'"
