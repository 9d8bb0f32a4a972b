"""scripts/lock_torch.sh and scripts/install_torch.sh: only files whose hashes are locked are installed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

LOCK, INSTALL = ROOT / "scripts" / "lock_torch.sh", ROOT / "scripts" / "install_torch.sh"
WHEELS = {
    "torch-1.2.0-cp311-cp311-macosx_14_0_arm64.whl": "a",
    "torch-1.2.0%2Bcpu-cp314-cp314t-manylinux_2_28_x86_64.whl": "b",
    "torch-1.2.0%2Bcpu-cp310-cp310-manylinux_2_28_x86_64.whl": "c",  # too old a Python
    "torch-1.2.01-cp311-cp311-win_amd64.whl": "d",
    "torch-1x2.0-cp311-cp311-win_amd64.whl": "e",
    "torch-1.2.0.tar.gz": "f",
}


def command(path: Path, script: str) -> Path:
    """An executable that stands for a program of the machine."""
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def locked(directory: Path, version: str, curl: str) -> subprocess.CompletedProcess[str]:
    command(directory / "curl", curl)
    environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
    script = ["sh", str(LOCK), version, "https://x.example/whl"]
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("version", "letter"), [("1.2.0", "a"), ("1.2.0+cpu", "b")])
def test_every_wheel_of_the_version_is_locked_and_nothing_else(tmp_path: Path, version: str, letter: str) -> None:
    page = "".join(
        f'<a href="https://x.example/whl/{name}#sha256={one * 64}" data-core-metadata="sha256={"0" * 64}">w</a>\n'
        for name, one in WHEELS.items()
    )
    (tmp_path / "page").write_text(page, encoding="utf-8")
    ran = locked(tmp_path, version, f'case "$*" in *" https://x.example/whl/torch/") cat {tmp_path}/page;; esac')
    assert ran.returncode == 0, ran.stderr
    requirement = [line for line in ran.stdout.splitlines() if not line.startswith("#")]
    assert requirement == [f"torch=={version} \\", f"    --hash=sha256:{letter * 64}"]


@pytest.mark.parametrize("curl", ["exit 22", "true"], ids=["the index does not answer", "no such version"])
def test_without_hashes_nothing_is_written(tmp_path: Path, curl: str) -> None:
    ran = locked(tmp_path, "1.2.0", curl)
    assert ran.returncode != 0 and not ran.stdout


CPU, CUDA = "filelock, jinja2", "cuda-toolkit, filelock, nvidia-cudnn-cu13"


@pytest.mark.parametrize(
    ("has_cpu", "requires", "files"),
    [
        (True, CPU, ["torch-cpu.txt"]),
        (False, CPU, ["torch-cpu.txt", "torch.txt"]),
        (False, CUDA, ["torch-cpu.txt", "torch.txt", "cuda.txt"]),
    ],
    ids=["the CPU's build", "macOS", "CUDA"],
)
def test_every_file_is_checked_and_cuda_comes_with_its_build_only(
    tmp_path: Path, has_cpu: bool, requires: str, files: list[str]
) -> None:
    calls, cpu = tmp_path / "calls", "true" if has_cpu else "exit 1"
    pip = command(
        tmp_path / "pip",
        f'echo "$*" >>{calls}\ncase "$*" in *torch-cpu.txt) {cpu};; "show torch") echo "Requires: {requires}";; esac',
    )
    subprocess.run(["sh", str(INSTALL), "https://x.example", str(pip)], check=True)
    installs = [line for line in calls.read_text(encoding="utf-8").splitlines() if line.startswith("install ")]
    assert [Path(line.split(" -r ")[1]).name for line in installs] == files
    for line, name in zip(installs, files, strict=True):
        assert "--no-deps --require-hashes" in line
        assert ("--index-url https://x.example" in line) == (name != "cuda.txt")


def test_a_build_that_matches_no_hash_is_an_error(tmp_path: Path) -> None:
    pip = command(tmp_path / "pip", "exit 1")
    assert subprocess.run(["sh", str(INSTALL), "", str(pip)], check=False).returncode != 0


def test_the_locked_versions_are_that_of_the_project() -> None:
    [version] = re.findall(r'"torch==([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, locked_version in (("torch.txt", version), ("torch-cpu.txt", f"{version}+cpu")):
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        assert f"\ntorch=={locked_version} \\\n" in text
        assert len(set(re.findall(r"sha256:[0-9a-f]{64}", text))) > 10, "a few platforms, several releases of Python"
    assert f": torch=={version}\n" in (ROOT / "requirements" / "cuda.txt").read_text(encoding="utf-8")
