"""scripts/torch_index.sh: which index torch is installed from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def command(path: Path, script: str) -> Path:
    """An executable that stands for a program of the machine."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def chosen(directory: Path, *, system: str = "Linux", nvidia: str = "exit 9", pip: str = "") -> str:
    """What the script prints on a machine with this kernel, this `nvidia-smi` and this output of `pip config list`."""
    command(directory / "uname", f"echo {system}")
    command(directory / "nvidia-smi", nvidia)
    python = command(directory / "python", f'test "$*" = "-m pip config list" && printf "%s" "{pip}"')
    environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
    script = ["sh", str(ROOT / "scripts" / "torch_index.sh"), str(python)]
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_linux_without_a_gpu_takes_the_cpu_build(tmp_path: Path) -> None:
    assert chosen(tmp_path) == CPU_INDEX
    assert chosen(tmp_path, pip="global.cert='/etc/ca.pem'\n:env:.timeout='60'\n") == CPU_INDEX


@pytest.mark.parametrize(
    "machine",
    [
        {"system": "Darwin"},
        {"nvidia": "echo 'GPU 0: NVIDIA L4'"},
        {"pip": "global.index-url='https://mirror.example/simple'\n"},
        {"pip": "site.extra-index-url='https://mirror.example/simple'\n"},
        {"pip": ":env:.find-links='/opt/wheels'\n"},
        {"pip": "install.no-index='true'\n"},
    ],
)
def test_other_machines_take_pips_own_index(machine: dict[str, str], tmp_path: Path) -> None:
    assert chosen(tmp_path, **machine) == ""


def test_the_real_pip_is_understood(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    command(tmp_path / "nvidia-smi", "exit 9")
    command(tmp_path / "uname", "echo Linux")

    def real(**more: str) -> str:
        script = ["sh", str(ROOT / "scripts" / "torch_index.sh"), sys.executable]
        ran = subprocess.run(script, env=environment | more, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    assert real() == CPU_INDEX
    assert real(PIP_FIND_LINKS=str(tmp_path)) == real(PIP_INDEX_URL="https://mirror.example/simple") == ""
