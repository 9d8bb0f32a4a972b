"""Checkpoints of a run. Incomplete ones are ignored, and those of another run are refused.

DIR/run.json               identity of the run that the checkpoints belong to
DIR/checkpoint-120/        the Trainer's own files, average.safetensors if weights are averaged, and COMPLETE, last
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.data.files import replace_text
from training.errors import ConfigError

COMPLETE = "COMPLETE"
RUN = "run.json"


def check_place(directory: Path, output: Path) -> None:
    """Refuse checkpoints within the output, which would make it unwritable at the very end.

    Raises:
        ConfigError: the directory of checkpoints is the output or below it.
    """
    if directory.absolute().is_relative_to(output.absolute()):
        raise ConfigError(f"checkpoints {directory} are within the output {output}; choose a directory beside it")


def claim(directory: Path, identity: Mapping[str, Any], *, derived: Iterable[str] = ()) -> None:
    """Claim a directory of checkpoints for this run, or check that it already belongs to this run.

    The directory of another run without a complete checkpoint is taken over, because nothing is lost with it.

    Args:
        directory: directory of checkpoints; made if needed.
        identity: everything on which the weights depend, as JSON values.
        derived: names of files in it that belong to one run and are removed when it is taken over.

    Raises:
        ConfigError: the directory has checkpoints of another run (the message names what differs) or other files, or
            it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _claim(directory, json.loads(json.dumps(identity)), derived)
    except OSError as exc:
        raise ConfigError(f"{directory}: checkpoints cannot be written: {exc}") from exc


def _claim(directory: Path, wanted: dict[str, Any], derived: Iterable[str]) -> None:
    path = directory / RUN
    if not path.exists():
        if not all(map(_is_foreign, directory.iterdir())):
            raise ConfigError(f"{directory} has files that are not checkpoints of a run; choose another --checkpoints")
        replace_text(path, json.dumps(wanted, indent=2))
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigError(f"{path} cannot be read ({exc}); remove the directory to start again") from exc
    differing = sorted(key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key))
    if differing and latest_complete(directory) is None:
        for name in derived:
            (directory / name).unlink(missing_ok=True)
        replace_text(path, json.dumps(wanted, indent=2))
    elif differing:
        shown = "; ".join(f"{key} is {there.get(key)!r} there and {wanted.get(key)!r} here" for key in differing)
        raise ConfigError(f"{directory} has checkpoints of another run: {shown}. Choose another --checkpoints")


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, after all its other files are written.

    The marker lists the files with their sizes, because a platform that copies checkpoints elsewhere during training
    may have copied the marker before the rest.
    """
    sizes = {
        path.name: path.stat().st_size
        for path in sorted(checkpoint.iterdir())
        if path.is_file() and path.name != COMPLETE and not _is_foreign(path)
    }
    replace_text(checkpoint / COMPLETE, json.dumps(sizes, indent=2))


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has its marker and all files that the marker lists."""
    try:
        sizes: dict[str, int] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def complete_steps(directory: Path) -> list[int]:
    """Return the steps of all complete checkpoints, in ascending order."""
    return sorted(step for step, path in _checkpoints(directory).items() if is_complete(path))


def latest_complete(directory: Path) -> Path | None:
    """Return the newest complete checkpoint, and remove the incomplete ones that a killed run left."""
    for path in _checkpoints(directory).values():
        if not is_complete(path):
            shutil.rmtree(path, ignore_errors=True)  # another process may remove it at the same time
    steps = complete_steps(directory)
    return directory / f"checkpoint-{steps[-1]}" if steps else None


def _checkpoints(directory: Path) -> dict[int, Path]:
    matches = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in directory.glob("checkpoint-*")]
    return {int(match[1]): path for match, path in matches if match}


def _is_foreign(path: Path) -> bool:
    """Return whether a file is the platform's: a hidden file, or a marker such as `x.sagemaker-uploaded`."""
    return path.name.startswith(".") or ".sagemaker-" in path.name
