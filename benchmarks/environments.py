"""Virtual environments of the peers, each with the pinned packages of `benchmarks/peers/requirements-NAME.txt`.

They are made once under the work directory and never touch the project's own.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import Unavailable

PEERS = Path(__file__).parent / "peers"
MADE = ".made"
"""Holds the hash of the requirements that are installed; written last."""


def environment(work: Path, name: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or if its requirements changed.

    Raises:
        Unavailable: pip refuses; the message has its last line.
    """
    requirements = PEERS / f"requirements-{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    directory = (work / "venvs" / name).absolute()
    python, made = directory / "bin" / "python", directory / MADE
    if made.is_file() and made.read_text(encoding="ascii").strip() == digest:
        return python
    print(f"making the environment of {name}: {directory}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(directory)], name)
    flags = ["--disable-pip-version-check", "--quiet"]
    _run([str(python), "-m", "pip", "install", *flags, "-r", str(requirements)], name)
    made.write_text(digest, encoding="ascii")
    return python


def pinned(name: str) -> tuple[str, ...]:
    """The packages that a peer's requirements name."""
    lines = (PEERS / f"requirements-{name}.txt").read_text(encoding="utf-8").split()
    return tuple(line.partition("==")[0] for line in lines if "==" in line)


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise Unavailable(f"{name}: {exc}") from exc
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise Unavailable(f"{name} cannot be installed: {errors[-1].strip()}")
