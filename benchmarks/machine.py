"""What the figures were measured on: the processor, its flags that matter, and the versions of what ran. Linux."""

import platform
import re
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service.model.host import available_cpus

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Instructions that decide how fast matrix products are, in float32, bfloat16 and int8."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

OURS = ("torch", "transformers", "tokenizers", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "numpy")


def describe() -> dict[str, Any]:
    """Date, processor, flags, cores, memory, system and the versions of the project's own environment."""
    cpuinfo = _read("/proc/cpuinfo")
    memory_kib = re.search(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))
    return {
        "date": date.today().isoformat(),
        "cpu": _field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "/".join(_field(cpuinfo, key) for key in ("cpu family", "model", "stepping")),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "cores": available_cpus(),
        "memory_gib": round(int(memory_kib[1]) / 2**20, 1) if memory_kib else None,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": versions(OURS),
    }


def cpu_flags() -> set[str]:
    """The first processor's, as /proc/cpuinfo has them; empty where there is no such file."""
    cpuinfo = _read("/proc/cpuinfo")
    return set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features")).split())


def has_bfloat16() -> bool:
    """The processor multiplies bfloat16 in hardware; elsewhere it is emulated, and slower than float32."""
    return bool(BFLOAT16_FLAGS & cpu_flags())


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def versions_in(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """The same in another environment."""
    script = "import sys\nfrom importlib.metadata import version\nfor n in sys.argv[1:]: print(n, version(n))"
    done = subprocess.run([python, "-c", script, *packages], capture_output=True, text=True, check=False)
    return dict(line.split() for line in done.stdout.splitlines())


def command() -> str:
    """What the reader would type to run this again."""
    arguments = " ".join(sys.argv[1:])
    name = Path(sys.argv[0]).stem
    module = "benchmarks" if name == "__main__" else f"benchmarks.{name}"
    return f"python -m {module} {arguments}".strip()


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
