"""The machine that figures were measured on: processor, memory, system, versions of packages. Linux."""

import os
import platform
import re
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.model.host import available_cpus

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Instructions that decide how fast matrix products are in float32, bfloat16 and int8."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
PACKAGES = ("torch", "transformers", "tokenizers", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "numpy")


def describe() -> dict[str, Any]:
    """Return date, processor, its flags, cores, memory, system and versions of the project's own environment."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "/".join(_cpuinfo(key) for key in ("cpu family", "model", "stepping")),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "cores": available_cpus(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": [f"{package} {version(package)}" for package in PACKAGES],
    }


def cpu_flags() -> set[str]:
    """Return the instruction sets of the first processor; empty where /proc/cpuinfo does not exist."""
    return set((_cpuinfo("flags") or _cpuinfo("Features")).split())


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    return bool(BFLOAT16_FLAGS & cpu_flags())


def command() -> str:
    """Return the command line that runs this program again."""
    name = Path(sys.argv[0]).stem
    module = "benchmarks" if name == "__main__" else f"benchmarks.{name}"
    return f"python -m {module} {' '.join(sys.argv[1:])}".strip()


def _cpuinfo(name: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
