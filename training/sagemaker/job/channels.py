"""A job's channels: the texts that a training run reads, the base model and the checkpoints that it starts from."""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import ConfigError
from training.sagemaker.job.settings import JobPaths

CHANNELS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test",)}
"""Names of the channels for each part of the data."""
BASE_MODEL, CHECKPOINTS = "base_model", "checkpoints"


def data_directory(paths: JobPaths, hosts: int) -> Path:
    """Return a directory for `training.data.splits` with `train`, and with `val` and `test` where there are channels.

    Raises ConfigError if there is no train channel, there are two for one part, or one is empty or unusable.
    """
    described = paths.config("inputdataconfig", "SM_INPUT_DATA_CONFIG")
    directory = paths.work / "data"
    directory.mkdir(parents=True)
    for part, names in CHANNELS.items():
        found = {name: path for name in names if (path := paths.channel(name)) is not None}
        if len(found) > 1:
            raise ConfigError(f"the job has the channels {' and '.join(found)}, which mean the same; keep one")
        if part == "train" and not found:
            raise ConfigError(
                "the job has no channel train: give one with CSV, TSV, JSON Lines or Parquet files of texts and labels"
            )
        for name, path in found.items():
            _check(name, path, described.get(name, {}), hosts)
            (directory / part).symlink_to(path.absolute())
    return directory


def _check(name: str, path: Path, described: Mapping[str, Any], hosts: int) -> None:
    if described.get("TrainingInputMode") == "Pipe":
        raise ConfigError(
            f"channel {name} comes by Pipe, which can be read only once; use the input mode File or FastFile"
        )
    if hosts > 1 and described.get("S3DistributionType") == "ShardedByS3Key":
        raise ConfigError(
            f"channel {name} is ShardedByS3Key over {hosts} hosts, so that each host sees other texts and the hosts do "
            "not agree on labels or splits; use FullyReplicated: the processes share the texts of each step"
        )
    if not any(file.is_file() and not file.name.startswith((".", "_")) for file in path.rglob("*")):
        raise ConfigError(f"channel {name} is empty; does its S3 prefix exist?")


def base_model(paths: JobPaths, given: str | None) -> str | None:
    """Return the model directory of the channel, or `given` where there is no such channel.

    Raises ConfigError if both are there, or the channel does not hold one model.
    """
    channel = paths.channel(BASE_MODEL)
    if channel is None:
        return given
    if given is not None:
        raise ConfigError(f"the base model is given twice: as channel {BASE_MODEL} and as hyper-parameter {given!r}")
    archives = sorted(channel.glob("*.tar.gz"))
    if len(archives) > 1:
        raise ConfigError(f"channel {BASE_MODEL} holds several archives: {', '.join(p.name for p in archives)}")
    directory = channel
    if archives:
        directory = paths.work / BASE_MODEL
        directory.mkdir(parents=True)
        try:
            with tarfile.open(archives[0]) as archive:
                archive.extractall(directory, filter="data")  # refuses devices and paths outside the directory
        except (tarfile.TarError, OSError, EOFError) as exc:
            raise ConfigError(f"channel {BASE_MODEL}: {archives[0].name} cannot be unpacked: {exc}") from exc
    found = sorted(path.parent for path in (*directory.glob("config.json"), *directory.glob("*/config.json")))
    if not found or (found[0] != directory and len(found) > 1):
        raise ConfigError(
            f"channel {BASE_MODEL} needs one model: a directory, or a model.tar.gz, with config.json, "
            "model.safetensors and tokenizer.json"
        )
    return str(found[0])


def seed_checkpoints(paths: JobPaths) -> None:
    """Copy the checkpoints of the channel, if there is one and the job has no checkpoint of its own yet."""
    channel = paths.channel(CHECKPOINTS)
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    if channel is None:
        return
    from training.fit.checkpoints import latest_complete

    if latest_complete(paths.checkpoints) is None:
        shutil.copytree(channel, paths.checkpoints, dirs_exist_ok=True)
