import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tokenizers import Tokenizer

from classifier import artifact_writer as module
from classifier.artifact import MANIFEST, REQUIRED, Artifact, read_artifact
from classifier.artifact_writer import check_writable_target, write_artifact
from classifier.errors import ArtifactError
from classifier.model import GPT2Classifier, infer_sequences

TEXT = "shares in the bank fell after the vote"


Write = Callable[..., Artifact]


@pytest.fixture
def write(model: GPT2Classifier, tokenizer: Tokenizer, artifact: Artifact) -> Write:
    """Return what writes the tiny model as an artifact with the card "new"."""
    return partial(write_artifact, model=model, tokenizer=tokenizer, manifest=artifact.manifest, card="new")


def rewrite(artifact: Artifact, **changes: Any) -> None:
    path = artifact.directory / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refuses(artifact: Artifact, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_artifact(artifact.directory)


def test_what_is_written_is_what_is_read(model: GPT2Classifier, artifact: Artifact) -> None:
    assert sorted(os.listdir(artifact.directory)) == sorted([*REQUIRED, "README.md", MANIFEST])
    [encoded] = artifact.encoder().encode([TEXT])
    ids = [encoded.windows[0].ids]  # type: ignore[union-attr]
    assert torch.equal(infer_sequences(artifact.model(), ids), infer_sequences(model, ids))


def test_transformers_pipeline_loads_it_and_agrees(artifact: Artifact) -> None:
    from transformers import pipeline

    theirs = pipeline("text-classification", str(artifact.directory), top_k=None)([TEXT, "a goal"], batch_size=2)
    encoded = artifact.encoder().encode([TEXT, "a goal"])
    logits = infer_sequences(artifact.model(), [e.windows[0].ids for e in encoded])  # type: ignore[union-attr]
    for row, answer in zip(torch.softmax(logits, -1).tolist(), theirs, strict=True):
        ours = dict(zip(artifact.labels.names, row, strict=True))
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-4) for entry in answer} == ours


def test_no_file_is_a_pickle(artifact: Artifact) -> None:
    for path in artifact.directory.iterdir():
        assert path.suffix in {".json", ".safetensors", ".md"}, path.name


@pytest.mark.parametrize("name", [*REQUIRED, "README.md"])
def test_one_flipped_byte_is_refused_by_name(artifact_copy: Artifact, name: str) -> None:
    path = artifact_copy.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refuses(artifact_copy, f"{name} was altered")


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_and_short_files_are_refused_by_name(artifact_copy: Artifact, name: str) -> None:
    path = artifact_copy.directory / name
    path.write_bytes(path.read_bytes()[:-1])
    refuses(artifact_copy, f"{name} has .* cut short")
    path.unlink()
    refuses(artifact_copy, f"{name} is missing")


def test_directory_without_manifest_is_no_artifact(artifact_copy: Artifact, tmp_path: Path) -> None:
    (artifact_copy.directory / MANIFEST).unlink()
    refuses(artifact_copy, r"manifest\.json is missing")
    with pytest.raises(ArtifactError, match="no such directory"):
        read_artifact(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "has schema version 2, this release reads 1"),
        ({"labels": ["a"]}, "manifest.json: labels: "),
        ({"surprise": 1}, "manifest.json: surprise: "),
        ({"max_tokens": 0}, "manifest.json: max_tokens: "),
        ({"window_stride": 65}, "the manifest: window_stride 65 is above max_tokens 64"),
        ({"labels": ["a", "b"]}, "golden text 0 has 3 logits for 2 labels"),
        ({"files": {}}, "manifest.json does not list config.json"),
        ({"calibration": {"points": [{"tokens": 1, "temperature": float("inf")}]}}, "calibration.points.0.temperature"),
        (
            {"calibration": {"points": [{"tokens": 2, "temperature": 1.0}] * 2}},
            "calibration: the tokens of the points must ascend",
        ),
    ],
)
def test_manifest_that_does_not_fit_is_refused(artifact_copy: Artifact, changes: dict[str, Any], message: str) -> None:
    rewrite(artifact_copy, **changes)
    refuses(artifact_copy, re.escape(message))


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_manifest_that_is_no_object_is_refused(artifact_copy: Artifact, content: str) -> None:
    (artifact_copy.directory / MANIFEST).write_text(content, encoding="utf-8")
    refuses(artifact_copy, r"manifest\.json")


def test_manifest_cannot_point_out_of_the_directory(artifact_copy: Artifact) -> None:
    files = json.loads((artifact_copy.directory / MANIFEST).read_text(encoding="utf-8"))["files"]
    rewrite(artifact_copy, files=files | {"../outside": files["config.json"]})
    refuses(artifact_copy, "not a plain file name")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["sport", "politics", "business"]}, r"config\.json has the labels"),
        ({"max_tokens": 129}, "128 positions"),
    ],
)
def test_config_and_manifest_must_agree(artifact_copy: Artifact, changes: dict[str, Any], message: str) -> None:
    rewrite(artifact_copy, **changes)
    with pytest.raises(ArtifactError, match=message):
        read_artifact(artifact_copy.directory).model()


@pytest.mark.parametrize(
    ("step", "error", "raised", "message"),
    [
        ("_move_into_place", KeyboardInterrupt(), KeyboardInterrupt, None),
        ("_sync", OSError(28, "No space left on device"), ArtifactError, "cannot be written: .*No space left"),
    ],
)
def test_a_failed_write_leaves_nothing(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
    raised: Any,
    message: str | None,
) -> None:
    monkeypatch.setattr(module, step, Mock(side_effect=error))
    with pytest.raises(raised, match=message):
        write(tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_overwriting_is_asked_for_and_replaces_the_whole(write: Write, tmp_path: Path) -> None:
    first = write(tmp_path / "model", card="old")
    with pytest.raises(ArtifactError, match="pass --overwrite"):
        write(tmp_path / "model")
    again = write(first.directory, overwrite=True)
    assert (again.directory / "README.md").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_no_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match="something other than an artifact"):
        check_writable_target(tmp_path, overwrite=True)


def test_artifact_is_readable_for_other_users(artifact: Artifact) -> None:
    assert artifact.directory.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in artifact.directory.iterdir())


def test_interrupted_overwrite_keeps_the_old_artifact(
    artifact_copy: Artifact, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target) == artifact_copy.directory and Path(source).name != "old":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(artifact_copy.directory, overwrite=True)
    monkeypatch.undo()
    assert read_artifact(artifact_copy.directory).manifest == artifact_copy.manifest
    assert [path.name for path in artifact_copy.directory.parent.iterdir()] == ["copy"]


def test_mount_point_is_filled_instead_of_replaced(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SageMaker's /opt/ml/model and Docker's volumes can be written into but not renamed."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    inode = mounted.stat().st_ino
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mounted)
    check_writable_target(mounted, overwrite=False)
    write(mounted)
    assert mounted.stat().st_ino == inode
    assert sorted(os.listdir(mounted)) == sorted([*REQUIRED, "README.md", MANIFEST])
    with pytest.raises(ArtifactError, match="empty it first"):
        check_writable_target(mounted, overwrite=True)


def test_places_that_cannot_be_written_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="cannot be written"):
        check_writable_target(tmp_path / "file" / "model", overwrite=False)
    with pytest.raises(ArtifactError, match="symbolic link"):
        check_writable_target(tmp_path / "link", overwrite=False)
    check_writable_target(tmp_path / "deep" / "er" / "model", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]


def test_files_that_the_manifest_does_not_list_are_refused(artifact_copy: Artifact) -> None:
    (artifact_copy.directory / ".DS_Store").touch()
    read_artifact(artifact_copy.directory)
    (artifact_copy.directory / "adapter_config.json").write_text("{}", encoding="utf-8")
    refuses(artifact_copy, r"does not list adapter_config\.json")
