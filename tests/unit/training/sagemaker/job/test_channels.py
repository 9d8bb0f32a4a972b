"""A job's channels become the directory that training reads, or an error that says why not."""

import tarfile
from pathlib import Path

import pytest

from training.errors import ConfigError
from training.sagemaker.job import channels
from training.sagemaker.job.settings import JobPaths


@pytest.fixture
def places(tmp_path: Path) -> JobPaths:
    (tmp_path / "work").mkdir()
    return JobPaths(tmp_path, {})


def put(places: JobPaths, name: str, content: str = "text,label\nx,a\n") -> Path:
    path = places.root / "input" / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def describe(places: JobPaths, content: str) -> None:
    config = places.root / "input" / "config" / "inputdataconfig.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(content, encoding="utf-8")


def test_channels_become_parts(places: JobPaths) -> None:
    put(places, "training/train.csv")
    put(places, "validation/v.jsonl")
    directory = channels.data_directory(places, 1)
    assert sorted(path.name for path in directory.iterdir()) == ["train", "val"]
    assert (directory / "train" / "train.csv").is_file() and (directory / "val" / "v.jsonl").is_file()


def test_a_toolkits_variable_wins(places: JobPaths, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.csv").touch()
    moved = JobPaths(places.root, {"SM_CHANNEL_TRAIN": str(tmp_path / "elsewhere")})
    assert (channels.data_directory(moved, 1) / "train" / "d.csv").is_file()


def test_unusable_channels_sayfailure_cause(places: JobPaths) -> None:
    with pytest.raises(ConfigError, match="no channel train"):
        channels.data_directory(places, 1)
    put(places, "train/a.csv").unlink()
    (places.work / "data").rmdir()
    with pytest.raises(ConfigError, match="channel train is empty"):
        channels.data_directory(places, 1)
    put(places, "training/a.csv")
    (places.work / "data").rmdir()
    with pytest.raises(ConfigError, match="channels train and training"):
        channels.data_directory(places, 1)


@pytest.mark.parametrize(
    ("described", "message"),
    [('{"train": {"TrainingInputMode": "Pipe"}}', "by Pipe"), ("[]", "JSON object"), ("{", "not valid JSON")],
)
def test_what_inputdataconfig_rules_out(places: JobPaths, described: str, message: str) -> None:
    put(places, "train/a.csv")
    describe(places, described)
    with pytest.raises(ConfigError, match=message):
        channels.data_directory(places, 1)


def test_sharded_data_is_for_one_host_only(places: JobPaths) -> None:
    put(places, "train/a.csv")
    describe(places, '{"train": {"S3DistributionType": "ShardedByS3Key"}}')
    with pytest.raises(ConfigError, match=r"ShardedByS3Key over 2 hosts.*use FullyReplicated"):
        channels.data_directory(places, 2)
    (places.work / "data").rmdir()
    assert channels.data_directory(places, 1).is_dir()


def test_base_model_from_a_directory_or_an_archive(places: JobPaths, tmp_path: Path) -> None:
    assert channels.base_model(places, "gpt2") == "gpt2" and channels.base_model(places, None) is None
    config = put(places, "base_model/config.json", "{}")
    assert channels.base_model(places, None) == str(config.parent)
    with pytest.raises(ConfigError, match="given twice"):
        channels.base_model(places, "gpt2")
    with tarfile.open(config.parent / "model.tar.gz", "w:gz") as archive:
        archive.add(config, "inner/config.json")
    config.unlink()
    assert channels.base_model(places, None) == str(places.work / "base_model" / "inner")


def test_archives_that_are_none_or_lead_out_are_refused(places: JobPaths, tmp_path: Path) -> None:
    broken = put(places, "base_model/model.tar.gz", "no archive")
    with pytest.raises(ConfigError, match=r"model\.tar\.gz cannot be unpacked"):
        channels.base_model(places, None)
    (places.work / "base_model").rmdir()
    (tmp_path / "file").touch()
    with tarfile.open(broken, "w:gz") as archive:
        archive.add(tmp_path / "file", "../../outside")
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        channels.base_model(places, None)


def test_checkpoints_of_a_channel_are_taken_up_once(places: JobPaths) -> None:
    put(places, "checkpoints/checkpoint-3/COMPLETE", "{}")
    channels.seed_checkpoints(places)
    assert (places.checkpoints / "checkpoint-3" / "COMPLETE").is_file()
    put(places, "checkpoints/checkpoint-9/COMPLETE", "{}")
    channels.seed_checkpoints(places)
    assert not (places.checkpoints / "checkpoint-9").exists()
