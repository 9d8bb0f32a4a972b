import ctypes
import subprocess
import sys

import pytest

from service.model.allocator import tune_allocator
from tests.support import ROOT

MAPPED = """
import ctypes, sys
from service.model.allocator import tune_allocator
tuned = tune_allocator() if sys.argv[1] == "tuned" else None
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
def test_blocks_of_a_forward_come_from_the_heap_and_are_not_mapped_anew() -> None:
    def run(how: str) -> str:
        command = [sys.executable, "-c", MAPPED, how]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert run("default") == "None 1"
    assert run("tuned") == "True 0"


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tune_allocator() is False
