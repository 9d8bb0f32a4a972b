import ctypes
import subprocess
import sys

import pytest

from service.memory import tune_allocator
from tests.conftest import ROOT

FAULTS = """
import random, resource, sys, torch
from service.memory import tune_allocator
tuned = tune_allocator() if sys.argv[1] == "tuned" else None
draw = random.Random(0)
def forward():
    kept = [torch.empty(draw.randrange(100, 3000), 500).fill_(1.0) for _ in range(4)]
for _ in range(100):
    forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    forward()
print(tuned, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def glibc() -> bool:
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not glibc(), reason="needs glibc's allocator")
def test_blocks_are_kept_for_the_next_forward() -> None:
    def faults(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", FAULTS, how], cwd=ROOT, check=True, capture_output=True, text=True)
        tuned, count = run.stdout.split()
        assert tuned == {"tuned": "True", "default": "None"}[how]
        return int(count)

    assert faults("tuned") < faults("default") / 2


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tune_allocator() is False
