"""The real engine over a tiny model."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from classifier import Precision, packed
from classifier.artifact import MANIFEST, Artifact
from classifier.decoding import probabilities
from classifier.packed import PackedClassifier
from service.errors import EngineLoadError, ServiceError
from service.inference.engine import EncodedWindow, ModelOutOfMemory, TextWindows
from service.model import load_engine, measure
from service.model.autotune import PrecisionTrial
from service.model.load_engine import load_torch_engine
from service.model.torch_engine import TorchEngine
from service.settings import Settings
from tests.support import ROOT
from tests.support.texts import news_rows
from training.report.predict import predict_logits


@pytest.fixture(scope="module")
def engine(artifact: Artifact) -> TorchEngine:
    return load_torch_engine(settings_of(artifact, precision="float32"))


def settings_of(artifact: Artifact, **changes: Any) -> Settings:
    values: dict[str, Any] = {"model_dir": artifact.directory, "lanes": 1, "threads": 2, "max_batch_tokens": 256}
    return Settings(**(values | {"autotune_dir": ""} | changes))


def refuses(artifact: Artifact, message: str, **changes: Any) -> None:
    with pytest.raises(EngineLoadError, match=message):
        load_torch_engine(settings_of(artifact, **changes))


def test_answers_equal_the_trainings_own(engine: TorchEngine, artifact: Artifact) -> None:
    texts = [row["text"] * (i % 5 + 1) for i, row in enumerate(news_rows(12))]
    expected = probabilities(predict_logits(artifact.model(), artifact.encoder(), texts))
    encoded = [e for e in engine.encode(texts, "windows") if isinstance(e, TextWindows)]
    rows = iter(engine.infer([window for e in encoded for window in e.windows]))
    for e, probs in zip(encoded, expected, strict=True):
        prediction = engine.decode(e, [next(rows) for _ in e.windows])
        assert dict(prediction.scores) == pytest.approx(dict(zip(artifact.labels.names, probs, strict=True)), abs=1e-4)
        assert prediction.label == artifact.labels.names[int(np.argmax(probs))]


@pytest.mark.parametrize(("threshold", "unsure"), [(None, None), (0.0, False), (1.0, True)])
def test_an_answer_is_unsure_below_the_threshold_of_the_manifest(
    artifact_copy: Artifact, threshold: float | None, unsure: bool | None
) -> None:
    path = artifact_copy.directory / MANIFEST
    points = [{"tokens": 9, "temperature": 1.0, "unsure_below": threshold}]
    changes = {"calibration": {"points": points}, "input": "title, blank line, text"}
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(manifest), encoding="utf-8")
    engine = load_torch_engine(settings_of(artifact_copy, precision="float32"))
    [text] = engine.encode(["shares in the bank fell"], "windows")
    assert isinstance(text, TextWindows) and engine.info.calibration.points[0].unsure_below == threshold
    assert engine.info.input == "title, blank line, text"
    assert engine.decode(text, engine.infer(text.windows)).unsure is unsure


def test_problems_have_their_kinds(engine: TorchEngine) -> None:
    results = engine.encode(["", "x\ud800", "word " * 300], "error")
    assert [r.kind for r in results if isinstance(r, ServiceError)] == ["empty_text", "invalid_text", "text_too_long"]


def test_info_says_what_is_served(engine: TorchEngine, artifact: Artifact) -> None:
    info = engine.info
    assert (info.name, info.max_tokens, info.max_batch_tokens, info.device) == ("tiny", 64, 256, "cpu")
    assert artifact.weights_sha256.startswith(info.version) and len(info.version) == 12
    assert info.parameters == sum(p.numel() for p in artifact.model().parameters())
    assert 0 <= info.golden_difference < (1e-3 if info.precision == "float32" else 5e-2)


def test_loading_says_what_it_is_about_and_what_it_chose(artifact: Artifact) -> None:
    stages: list[str] = []
    info = load_torch_engine(settings_of(artifact, max_batch_tokens=0), stages.append).info
    assert [stage.split()[0] for stage in stages] == ["verifying", "choosing", "loading", "checking", "choosing"]
    assert info.max_batch_tokens in {trial.tokens for trial in info.budget_trials}
    trials: dict[str, PrecisionTrial] = {trial.precision: trial for trial in info.precision_trials}
    assert set(trials) == {"float32", "bfloat16", "int8"}
    assert trials[info.precision].verdict.startswith("chosen")
    for trial in trials.values():
        assert trial.tokens_per_s or trial.verdict.startswith("not on this")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_setting_decides_the_precision(
    artifact: Artifact, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_engine, "NEAR", 1.0)  # the tiny model's weights are eight times as large as usual
    engine = load_torch_engine(settings_of(artifact, precision=precision))
    assert (engine.info.precision, engine.info.precision_trials) == (precision, ())


def test_precision_that_is_too_far_off_is_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_engine, "NEAR", 1e-9)
    refuses(artifact, r"differ .* is allowed for bfloat16", precision="bfloat16")


@pytest.mark.parametrize("agrees", [True, False])
def test_faster_precision_is_chosen_only_if_it_agrees(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    speed = {"float32": 1.0, "bfloat16": 0.1, "int8": 0.1}
    monkeypatch.setattr(PackedClassifier, "layer_timer", lambda self, _: lambda _: speed[self.precision])
    shift = {"float32": 0.0, "bfloat16": 0.04 if agrees else 0.06, "int8": float("nan")}
    monkeypatch.setattr(
        PackedClassifier, "prefix_logits", lambda self, texts: [torch.full((1, 2), shift[self.precision])] * len(texts)
    )
    monkeypatch.setattr(load_engine, "NEAR", 1.0)  # for the check of the golden texts that follows
    info = load_torch_engine(settings_of(artifact)).info
    assert info.precision == ("bfloat16" if agrees else "float32")


def test_lower_precision_that_fails_on_golden_texts_gives_way_to_float32(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = artifact.packed("bfloat16")
    trials = (
        PrecisionTrial("bfloat16", "chosen: 2.00 times as fast", 2.0, 0.01),
        PrecisionTrial("float32", "slower than bfloat16", 1.0),
    )
    monkeypatch.setattr(load_engine, "fastest_precision", lambda *_: (trials, lower))
    monkeypatch.setattr(load_engine, "NEAR", 1e-9)
    info = load_torch_engine(settings_of(artifact)).info
    verdicts = {trial.precision: trial.verdict for trial in info.precision_trials}
    assert info.precision == "float32" and info.golden_difference < 1e-3
    assert verdicts["float32"].startswith("chosen") and "golden" in verdicts["bfloat16"]


CUDA_ERRORS = [
    RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nException raised from mha_varlen_fwd"),
    RuntimeError("This flash attention build does not support headdim not being a multiple of 8."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
    NotImplementedError("Could not run 'aten::_flash_attention_forward' with arguments from the 'CUDA' backend."),
]
"""Errors as PyTorch raises them on older GPUs."""


def test_bfloat16_by_emulation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch emulates it on a T4 and a V100."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert set(measure.unavailable_precisions("cuda")) == {"bfloat16", "int8"}


@pytest.mark.parametrize("error", CUDA_ERRORS, ids=lambda error: str(error)[:20])
@pytest.mark.parametrize("step", ["layer_timer", "prefix_logits"])
def test_a_precision_that_fails_in_its_trial_is_unavailable(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fails_below_float32(self: PackedClassifier, *args: Any, **kwargs: Any) -> Any:
        if self.precision == "float32":
            return real(self, *args, **kwargs)
        raise error

    speed = {"float32": 1.0, "bfloat16": 0.1, "int8": 0.2}  # so that both are compared with float32
    monkeypatch.setattr(PackedClassifier, "layer_timer", lambda self, _: lambda _: speed[self.precision])
    real = getattr(PackedClassifier, step)
    monkeypatch.setattr(PackedClassifier, step, fails_below_float32)
    monkeypatch.setattr(measure, "unavailable_precisions", lambda _: {})
    engine = load_torch_engine(settings_of(artifact))
    verdicts = {trial.precision: trial.verdict for trial in engine.info.precision_trials}
    assert engine.info.precision == "float32" and verdicts["float32"].startswith("chosen")
    assert verdicts["bfloat16"] == verdicts["int8"] == f"unavailable: {str(error).splitlines()[0]}"


@pytest.mark.parametrize("error", CUDA_ERRORS, ids=lambda error: str(error)[:20])
@pytest.mark.parametrize("step", ["__init__", "__call__"])
def test_a_fixed_precision_that_fails_is_one_clear_line(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    monkeypatch.setattr(PackedClassifier, step, Mock(side_effect=error))
    with pytest.raises(EngineLoadError) as caught:
        load_torch_engine(settings_of(artifact, precision="bfloat16"))
    assert str(caught.value).endswith(f"on cpu with SERVICE_PRECISION=bfloat16: {str(error).splitlines()[0]}")


def test_a_precision_that_fails_on_long_golden_texts_gives_way_to_float32(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = artifact.packed("bfloat16")
    trials = (PrecisionTrial("bfloat16", "chosen: 2.00 times as fast", 2.0, 0.01), PrecisionTrial("float32", "slower"))
    monkeypatch.setattr(load_engine, "fastest_precision", lambda *_: (trials, lower))
    monkeypatch.setattr(lower, "attention", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.")))
    info = load_torch_engine(settings_of(artifact)).info
    verdicts = {trial.precision: trial.verdict for trial in info.precision_trials}
    assert info.precision == "float32" and verdicts["bfloat16"] == "unavailable: CUDA out of memory."


def test_float32_is_computed_in_float32(artifact: Artifact) -> None:
    """NVIDIA's images set this variable, and a library may choose TF32 in either of PyTorch's ways."""
    code = (
        "import torch; from pathlib import Path; from service.settings import Settings;"
        "from service.model.load_engine import load_torch_engine;"
        "torch.backends.mkldnn.matmul.fp32_precision = torch.backends.cuda.matmul.fp32_precision = 'tf32';"
        f"load_torch_engine(Settings(model_dir=Path({str(artifact.directory)!r}), max_batch_tokens=64));"
        "print(torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)"
    )
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.stdout.split() == ["ieee", "ieee"]


def test_cuda_where_there_is_none_is_one_clear_error(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refuses(artifact, "SERVICE_DEVICE=cuda", device="cuda")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_has_a_type_of_its_own(engine: TorchEngine, artifact: Artifact, error: Exception) -> None:
    def forward(_: object) -> torch.Tensor:
        raise error

    with pytest.raises(ModelOutOfMemory):
        TorchEngine(artifact, forward, engine.info).infer([])


def test_equal_windows_have_equal_keys_and_others_do_not(engine: TorchEngine) -> None:
    one, same, other = (
        e.windows[0].key for e in engine.encode(["a  b", "a b", "a c"], None) if isinstance(e, TextWindows)
    )
    assert one == same != other


def test_tokenize_runs_the_tokenizer_once(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name.startswith("encode"):
                calls.append(name)
            return getattr(tokenizer, name)

    tokenizer = engine._encoder._tokenizer
    monkeypatch.setattr(engine._encoder, "_tokenizer", Counting())
    text = " ".join(row["text"] for row in news_rows(20))
    tokens = engine.tokenize(text)
    assert calls == ["encode_batch"], "`encode` would hold Python's lock"
    [encoded] = engine.encode([text], "windows")
    assert isinstance(encoded, TextWindows)
    assert (len(tokens.ids), tokens.windows) == (encoded.tokens, len(encoded.windows))
    assert "".join(tokens.cleaned[start:end] for start, end in tokens.offsets) == text
    for bad, kind in (("", "empty_text"), ("x\ud800", "invalid_text")):
        with pytest.raises(ServiceError) as caught:
            engine.tokenize(bad)
        assert caught.value.kind == kind


def test_the_first_tokens_of_a_very_long_text_are_listed(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(row["text"] for row in news_rows(20))
    whole = engine.tokenize(text)
    monkeypatch.setattr("service.model.torch_engine.MAX_LISTED", 7)
    first = engine.tokenize(text)
    assert (first.ids, first.offsets) == (whole.ids[:7], whole.offsets[:7])
    assert first.cleaned == whole.cleaned[: whole.offsets[6][1]]
    assert (first.count, first.windows) == (len(whole.ids), whole.windows) == (whole.count, whole.windows)


def test_spans_are_those_of_the_text_as_it_was_sent(engine: TorchEngine) -> None:
    text = "  " + "\n\n".join(row["text"] for row in news_rows(20)) + " "
    [plain] = engine.encode([text], "windows")
    [asked] = engine.encode([text], "windows", True)
    assert isinstance(plain, TextWindows) and isinstance(asked, TextWindows)
    assert plain.spans == () and len(asked.spans) == len(asked.windows) > 2
    assert asked.spans[0][0] == 2 and asked.spans[-1][1] == len(text) - 1
    assert all(a[0] < b[0] < a[1] < b[1] for a, b in pairwise(asked.spans[:-1]))


@pytest.mark.parametrize(
    "text",
    [
        "  The striker's unbelievable\n\ngoalkeeping " * 20,
        "東京の株価は午後に下がりました。" * 20,
        "e\u0301le\u0300ve" * 60,
    ],
)
def test_the_span_of_a_truncated_text_ends_where_reading_ended(engine: TorchEngine, text: str) -> None:
    [short] = engine.encode([text], "truncate", True)
    assert isinstance(short, TextWindows) and short.tokens_read < short.tokens
    [(_, end)] = short.spans
    tokens = engine.tokenize(text)
    read = tokens.cleaned[: tokens.offsets[short.tokens_read - 1][1]]
    assert engine.tokenize(text[:end]).cleaned == read.rstrip()


def test_serving_imports_no_transformers(artifact: Artifact) -> None:
    """It doubles the time to start; the head "flatten" alone needs it."""
    code = (
        "import sys; from pathlib import Path; from service.settings import Settings;"
        "from service.model.load_engine import load_torch_engine;"
        f"load_torch_engine(Settings(model_dir=Path({str(artifact.directory)!r}), max_batch_tokens=64));"
        "sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_scores_that_are_not_finite_are_an_error_of_that_text(engine: TorchEngine) -> None:
    with pytest.raises(ServiceError, match="not finite"):
        engine.decode(TextWindows((EncodedWindow(1, (1,), 1),), 1, 1), [[float("nan"), 0.0, 0.0]])


def test_probe(engine: TorchEngine) -> None:
    engine.probe()


def rewrite_golden(artifact: Artifact, value: float) -> None:
    path = artifact.directory / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["golden"][3]["logits"][1] += value
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_answers_that_differ_from_training_time_are_refused(artifact_copy: Artifact) -> None:
    rewrite_golden(artifact_copy, 0.01)
    refuses(artifact_copy, r"golden texts' logits differ .* by 0\.01")


def test_wrong_positions_are_caught_before_ready(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that batches invite: positions that go on counting in the next text."""
    monkeypatch.setattr(packed, "_positions", lambda lengths: [row % 128 for row in range(sum(lengths))])
    refuses(artifact, "this machine would give wrong answers", precision="float32")


def test_precisions_are_compared_by_a_thousand_short_sequences(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def counted(self: PackedClassifier, texts: list[list[int]]) -> list[torch.Tensor]:
        compared.extend(list(texts))
        return real(self, texts)

    real = PackedClassifier.prefix_logits
    speed = {"float32": 1.0, "bfloat16": 0.1, "int8": 0.2}
    monkeypatch.setattr(PackedClassifier, "layer_timer", lambda self, _: lambda _: speed[self.precision])
    monkeypatch.setattr(PackedClassifier, "prefix_logits", counted)
    monkeypatch.setattr(measure, "unavailable_precisions", lambda _: {"int8": "not tried"})
    monkeypatch.setattr(measure, "NEAR", math.inf)  # otherwise a small first round may decide
    load_torch_engine(settings_of(artifact))
    prefixes = {tuple(ids[:stop]) for ids in compared for stop in range(1, len(ids) + 1)}
    assert len(prefixes) >= 1000


def test_nan_weights_are_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Artifact.packed

    def with_nan(self: Artifact, *args: Any, **kwargs: Any) -> PackedClassifier:
        broken = real(self, *args, **kwargs)
        broken._head_cd = broken._head_cd * float("nan")
        return broken

    monkeypatch.setattr(Artifact, "packed", with_nan)
    refuses(artifact, r"differ .* by inf")


def test_damaged_artifact_is_one_clear_error(artifact_copy: Artifact) -> None:
    (artifact_copy.directory / "config.json").unlink()
    refuses(artifact_copy, r"artifact .*: config\.json is missing")
    with pytest.raises(EngineLoadError, match="no such directory"):
        load_torch_engine(Settings(model_dir=Path("nowhere")))
