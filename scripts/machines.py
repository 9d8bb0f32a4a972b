"""Run the tests of the model as on other CPUs: with fewer instructions than this CPU has.

    python scripts/machines.py [--short]

PyTorch's own kernels and oneDNN's can each be held to an older set of instructions by a variable. Tests run in a
process for each combination that a real CPU has. A set that this CPU lacks cannot be emulated; it is named as not run.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/unit/classifier", "tests/unit/service/model", "tests/unit/training/fit/test_loop.py")
SHORT_TESTS = (
    "tests/unit/classifier/test_packed.py",
    "tests/unit/classifier/test_attention.py",
    "tests/unit/classifier/test_products.py",
    "tests/unit/training/fit/test_loop.py",
)


class Machine(NamedTuple):
    """A kind of CPU, as the two variables describe it."""

    name: str
    aten: str
    """ATEN_CPU_CAPABILITY"""
    onednn: str
    """ONEDNN_MAX_CPU_ISA"""
    needs: str
    """The CPU's flag without which it cannot be emulated, as /proc/cpuinfo names it."""


MACHINES = (
    Machine("no vector instructions in PyTorch's kernels", "default", "AVX2", "avx2"),
    Machine("AVX2", "avx2", "AVX2", "avx2"),
    Machine("AVX2 with VNNI", "avx2", "AVX2_VNNI", "avx_vnni"),
    Machine("AVX-512", "avx512", "AVX512_CORE", "avx512f"),
    Machine("AVX-512 with VNNI", "avx512", "AVX512_CORE_VNNI", "avx512_vnni"),
    Machine("AVX-512 with bfloat16", "avx512", "AVX512_CORE_BF16", "avx512_bf16"),
    Machine("AMX", "avx512", "AVX10_1_512_AMX", "amx_tile"),
)
SHORT_MACHINES = MACHINES[:2]


def flags() -> set[str]:
    """Return the flags of this CPU; empty where /proc/cpuinfo does not tell them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def main() -> int:
    """Run the tests on each machine; return the number of machines on which they fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="fewer tests, on the oldest CPUs only")
    short = parser.parse_args().short
    failed = 0
    known = flags()
    for machine in SHORT_MACHINES if short else MACHINES:
        setting = f"ATEN_CPU_CAPABILITY={machine.aten} ONEDNN_MAX_CPU_ISA={machine.onednn}"
        if machine.needs not in known:
            print(f"{machine.name} ({setting}): not run, this CPU has no {machine.needs}", flush=True)
            continue
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-n",
                "auto",
                "--maxprocesses",
                "4",
                *(SHORT_TESTS if short else TESTS),
            ],
            cwd=ROOT,
            env=os.environ | {"ATEN_CPU_CAPABILITY": machine.aten, "ONEDNN_MAX_CPU_ISA": machine.onednn},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"{machine.name} ({setting}): {run.stdout.strip().splitlines()[-1]}", flush=True)
        if run.returncode:
            print(run.stdout, flush=True)
            failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
