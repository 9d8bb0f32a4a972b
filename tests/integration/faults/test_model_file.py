"""The model's file changes under a running service."""

import os
from pathlib import Path

import pytest

from classifier.artifact import Artifact
from tests.integration.faults.conftest import needs_linux, replace_by_rename, service
from tests.support.texts import news_rows

pytestmark = needs_linux
TEXTS = [row["text"] for row in news_rows(30)]


def test_file_that_is_replaced_by_rename_changes_no_answer(artifact_copy: Artifact, tmp_path: Path) -> None:
    weights = artifact_copy.directory / "model.safetensors"
    with service(artifact_copy, tmp_path) as running:
        before = [running.scores(text) for text in TEXTS[:10]]
        replace_by_rename(weights, bytes(weights.stat().st_size))
        after = [running.scores(text) for text in TEXTS]
        assert all(one == pytest.approx(other, abs=1e-4) for one, other in zip(before, after[:10], strict=True))
        weights.unlink()
        assert running.scores(TEXTS[0]) == pytest.approx(before[0], abs=1e-4)
        assert running.readiness() == (200, "ready")
        assert running.stop() == 0


def test_file_that_is_overwritten_or_truncated_changes_no_answer(artifact_copy: Artifact, tmp_path: Path) -> None:
    weights = artifact_copy.directory / "model.safetensors"
    with service(artifact_copy, tmp_path) as running:
        before = [running.scores(text) for text in TEXTS]
        with weights.open("r+b") as file:  # in place, as `cp` does
            file.write(bytes(weights.stat().st_size))
        overwritten = [running.scores(text) for text in TEXTS]
        os.truncate(weights, 0)
        truncated = [running.scores(text) for text in TEXTS]
        for scores, other in zip(before * 2, overwritten + truncated, strict=True):
            assert other == pytest.approx(scores, abs=1e-4)
        assert running.stop() == 0
