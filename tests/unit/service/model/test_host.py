import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.model.host import SERVING, available_cpus, tune_allocator
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
