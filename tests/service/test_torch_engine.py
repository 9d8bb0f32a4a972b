"""The real engine over a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest

from classifier.artifact import MANIFEST, Artifact
from classifier.decoding import probabilities
from service import torch_engine
from service.engine import Encoded, InferenceError, Item, TextProblem
from service.errors import EngineLoadError
from service.settings import Settings
from service.torch_engine import TorchEngine, load_torch_engine
from tests.texts import news_rows
from training.predict import predict_logits


@pytest.fixture(scope="module")
def engine(artifact: Artifact) -> TorchEngine:
    return load_torch_engine(settings_of(artifact))


def settings_of(artifact: Artifact) -> Settings:
    return Settings(model_dir=artifact.directory, threads=2, max_batch_tokens=256)


def test_answers_equal_the_trainings_own(engine: TorchEngine, artifact: Artifact) -> None:
    texts = [row["text"] * (i % 5 + 1) for i, row in enumerate(news_rows(12))]
    expected = probabilities(predict_logits(artifact.model(), artifact.encoder(), texts))
    encoded = [e for e in engine.encode(texts, "windows") if isinstance(e, Encoded)]
    rows = iter(engine.infer([item for e in encoded for item in e.items]))
    for e, probs in zip(encoded, expected, strict=True):
        prediction = engine.decode(e, [next(rows) for _ in e.items])
        assert dict(prediction.scores) == pytest.approx(dict(zip(artifact.labels.names, probs, strict=True)), abs=1e-4)
        assert prediction.label == artifact.labels.names[int(np.argmax(probs))]


def test_problems_have_their_kinds(engine: TorchEngine) -> None:
    results = engine.encode(["", "x\ud800", "word " * 300], "error")
    assert [r.kind for r in results if isinstance(r, TextProblem)] == ["empty_text", "invalid_text", "text_too_long"]


def test_info_says_what_is_served(engine: TorchEngine, artifact: Artifact) -> None:
    info = engine.info
    assert (info.name, info.precision, info.max_tokens) == ("tiny", "float32", 64)
    assert artifact.weights_sha256.startswith(info.version) and len(info.version) == 12
    assert 0 <= info.golden_difference < 1e-3


def test_scores_that_are_not_finite_are_an_error_of_that_text(engine: TorchEngine) -> None:
    with pytest.raises(InferenceError):
        engine.decode(Encoded((Item(1, (1,)),), 1, 1), [[float("nan"), 0.0, 0.0]])


def test_probe_and_padding_cost(engine: TorchEngine) -> None:
    engine.probe()
    assert engine.batch_cost([3, 10, 2]) == 30


def rewrite_golden(artifact: Artifact, value: float) -> None:
    path = artifact.directory / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["golden"][3]["logits"][1] += value
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_answers_that_differ_from_training_time_are_refused(artifact_copy: Artifact) -> None:
    rewrite_golden(artifact_copy, 0.01)
    with pytest.raises(EngineLoadError, match=r"golden texts' logits differ .* by 0\.01"):
        load_torch_engine(settings_of(artifact_copy))


def test_wrong_positions_are_caught_before_ready(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that left padding invites: positions numbered by column."""
    from classifier import model as model_module
    from classifier.encoding import Batch, pad

    def by_column(sequences: object, pad_id: int, side: str = "left") -> Batch:
        batch = pad(sequences, pad_id, side)  # type: ignore[arg-type]
        columns = np.broadcast_to(np.arange(batch.ids_bt.shape[1]), batch.ids_bt.shape).copy()
        return Batch(batch.ids_bt, batch.mask_bt, columns)

    monkeypatch.setattr(model_module, "pad", by_column)
    with pytest.raises(EngineLoadError, match="this machine would give wrong answers"):
        load_torch_engine(settings_of(artifact))


def test_nan_weights_are_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Artifact.model

    def broken(self: Artifact) -> object:
        model = real(self)
        model.score.weight.data[:] = float("nan")
        return model

    monkeypatch.setattr(Artifact, "model", broken)
    with pytest.raises(EngineLoadError, match=r"differ .* by nan"):
        load_torch_engine(settings_of(artifact))


def test_damaged_artifact_is_one_clear_error(artifact_copy: Artifact) -> None:
    (artifact_copy.directory / "config.json").unlink()
    with pytest.raises(EngineLoadError, match=r"artifact .*: config\.json is missing"):
        load_torch_engine(settings_of(artifact_copy))
    with pytest.raises(EngineLoadError, match="no such directory"):
        load_torch_engine(Settings(model_dir=Path("nowhere")))


def test_warm_up_runs_the_largest_batch(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int]] = []

    class Spy(TorchEngine):
        def infer(self, items):
            shapes.append((len(items), items[0].tokens))
            return super().infer(items)

    monkeypatch.setattr(torch_engine, "TorchEngine", Spy)
    load_torch_engine(settings_of(artifact))
    assert shapes == [(4, 64)]
