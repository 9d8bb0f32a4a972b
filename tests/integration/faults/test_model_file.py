"""The model's file changes under a running service, and no answer does."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from classifier.artifact import Artifact
from tests.support.service_process import service_process
from tests.support.texts import news_rows

TEXTS = [row["text"] for row in news_rows(30)]


def overwrite(path: Path) -> None:
    """Write in place, as `cp` does."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def rename_over(path: Path) -> None:
    """Write beside the file and rename, as a careful tool does."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(bytes(1000))
    os.replace(beside, path)


CHANGES: tuple[Callable[[Path], None], ...] = (overwrite, truncate, rename_over, Path.unlink)


def test_no_change_of_the_file_changes_an_answer(artifact_copy: Artifact) -> None:
    with service_process(artifact_copy.directory) as service:
        before = [service.scores(text) for text in TEXTS]
        for change in CHANGES:
            change(artifact_copy.directory / "model.safetensors")
            for text, scores in zip(TEXTS, before, strict=True):
                assert service.scores(text) == pytest.approx(scores, abs=1e-4), change.__name__
        assert service.readiness() == (200, "ready")
        assert service.stop() == 0
