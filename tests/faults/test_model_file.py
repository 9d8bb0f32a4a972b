"""The model's file changes under a running service."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from classifier.artifact import Artifact
from tests.faults.conftest import needs_linux, replace_by_rename, service
from tests.texts import news_rows

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


def test_truncated_file_gives_right_answers_or_none(
    artifact_copy: Artifact, artifact: Artifact, tmp_path: Path
) -> None:
    weights = artifact_copy.directory / "model.safetensors"
    with service(artifact_copy, tmp_path) as running:
        before = [running.scores(text) for text in TEXTS]
        os.truncate(weights, 0)
        for text, scores in zip(TEXTS, before, strict=True):
            try:
                assert running.scores(text) == pytest.approx(scores, abs=1e-4)
            except httpx.TransportError:
                assert running.process.wait(10) == -signal.SIGBUS  # weights that are mapped are gone with the file
                break
