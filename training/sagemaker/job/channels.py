"""A job's channels: to the directory that a training run reads, and to the base model that it starts from."""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import ConfigError
from training.sagemaker.job.settings import Places

CHANNELS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test",)}
BASE_MODEL, CHECKPOINTS = "base_model", "checkpoints"


def data_directory(places: Places, hosts: int) -> Path:
    """A directory with `train`, and `val` and `test` where the job has such channels, for `training.data.splits`.

    Raises:
        ConfigError: no train channel, two for one part, an empty one, or one that cannot be read so.
    """
    described = places.config("inputdataconfig", "SM_INPUT_DATA_CONFIG")
    directory = places.work / "data"
    directory.mkdir(parents=True)
    for part, names in CHANNELS.items():
        found = {name: place for name in names if (place := places.channel(name)) is not None}
        if len(found) > 1:
            raise ConfigError(f"the job has the channels {' and '.join(found)}, which mean the same; keep one")
        if part == "train" and not found:
            raise ConfigError(
                "the job has no channel train: give one with CSV, TSV, JSON Lines or Parquet files of texts and labels"
            )
        for name, place in found.items():
            _check(name, place, described.get(name, {}), hosts)
            (directory / part).symlink_to(place.absolute())
    return directory


def _check(name: str, place: Path, described: Mapping[str, Any], hosts: int) -> None:
    if described.get("TrainingInputMode") == "Pipe":
        raise ConfigError(f"channel {name} comes by Pipe, which is read once only; use the input mode File or FastFile")
    if hosts > 1 and described.get("S3DistributionType") == "ShardedByS3Key":
        raise ConfigError(
            f"channel {name} is ShardedByS3Key over {hosts} hosts, so that each host sees other texts and no two agree "
            "on labels or splits; use FullyReplicated: the processes share the texts of each step out among themselves"
        )
    if not any(path.is_file() and not path.name.startswith((".", "_")) for path in place.rglob("*")):
        raise ConfigError(f"channel {name} is empty; does its S3 prefix exist?")


def base_model(places: Places, given: str | None) -> str | None:
    """The channel's model directory; what is given, where there is no such channel.

    Raises:
        ConfigError: both are there, or the channel holds no model.
    """
    channel = places.channel(BASE_MODEL)
    if channel is None:
        return given
    if given is not None:
        raise ConfigError(f"the base model is given twice: as channel {BASE_MODEL} and as hyper-parameter {given!r}")
    archives = sorted(channel.glob("*.tar.gz"))
    if len(archives) > 1:
        raise ConfigError(f"channel {BASE_MODEL} holds several archives: {', '.join(p.name for p in archives)}")
    return str(_model_below(_unpacked(archives[0], places.work / BASE_MODEL) if archives else channel))


def _unpacked(archive: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive) as files:
            files.extractall(target, filter="data")  # nothing outside the target, no devices
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise ConfigError(f"channel {BASE_MODEL}: {archive.name} cannot be unpacked: {exc}") from exc
    return target


def _model_below(directory: Path) -> Path:
    found = sorted(path.parent for path in (*directory.glob("config.json"), *directory.glob("*/config.json")))
    if not found or (found[0] != directory and len(found) > 1):
        raise ConfigError(
            f"channel {BASE_MODEL} needs one model: a directory, or a model.tar.gz, with config.json, "
            "model.safetensors and tokenizer.json"
        )
    return found[0]


def seed_checkpoints(places: Places) -> None:
    """Take up the checkpoints of a channel where the job has none of its own yet."""
    channel = places.channel(CHECKPOINTS)
    places.checkpoints.mkdir(parents=True, exist_ok=True)
    if channel is None:
        return
    from training.fit.checkpoints import latest_complete

    if latest_complete(places.checkpoints) is None:
        shutil.copytree(channel, places.checkpoints, dirs_exist_ok=True)
