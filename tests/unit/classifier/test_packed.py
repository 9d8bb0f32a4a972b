import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

from classifier import Precision
from classifier.artifact import Artifact
from classifier.errors import ModelError
from classifier.layers import ReadTensor
from classifier.model import GPT2Classifier, infer_sequences
from classifier.packed import ROWS, STEP, PackedClassifier

rows = st.lists(st.lists(st.integers(0, 399), min_size=1, max_size=60), min_size=1, max_size=10)


def packed(model: GPT2Classifier, precision: Precision = "float32", device: str = "cpu") -> PackedClassifier:
    @contextmanager
    def source() -> Iterator[ReadTensor]:
        yield model.state_dict().__getitem__

    return PackedClassifier(model.config.to_dict(), source, precision, device)


@pytest.fixture(scope="module")
def exact(model: GPT2Classifier) -> PackedClassifier:
    return packed(model)


@pytest.fixture(scope="module")
def milder(model: GPT2Classifier) -> GPT2Classifier:
    """The tiny model's weights are eight times as large as usual, which multiplies what rounding does; here two."""
    copied = deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.25)
    return copied


@pytest.fixture(scope="module")
def rounded(milder: GPT2Classifier) -> dict[str, PackedClassifier]:
    return {precision: packed(milder, precision) for precision in ("bfloat16", "int8")}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows)
def test_packed_equals_the_reference(
    model: GPT2Classifier, exact: PackedClassifier, sequences: list[list[int]]
) -> None:
    torch.testing.assert_close(exact(sequences), infer_sequences(model, sequences), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@settings(max_examples=30, deadline=None)
@given(sequences=rows)
def test_low_precision_is_near_the_reference(
    milder: GPT2Classifier, rounded: dict[str, PackedClassifier], precision: str, sequences: list[list[int]]
) -> None:
    expected, got = infer_sequences(milder, sequences), rounded[precision](sequences)
    torch.testing.assert_close(got, expected, atol=5e-2, rtol=0)
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 0.1  # both of the two may be 0.05 off
    assert torch.equal(got.argmax(1)[clear], expected.argmax(1)[clear])


@settings(max_examples=30, deadline=None)
@given(rows, st.integers(0, 9))
def test_answer_does_not_depend_on_neighbours(
    exact: PackedClassifier, rounded: dict[str, PackedClassifier], sequences: list[list[int]], place: int
) -> None:
    place %= len(sequences)
    for classifier in (exact, *rounded.values()):
        together, alone = classifier(sequences)[place], classifier([sequences[place]])[0]
        torch.testing.assert_close(together, alone, atol=1e-4 if classifier is exact else 5e-2, rtol=0)


SHAPES: list[dict[str, object]] = [
    {"n_layer": 1},
    {"n_inner": 40},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    *(dict[str, object](activation_function=name) for name in ("relu", "gelu", "gelu_pytorch_tanh", "silu")),
    {"layer_norm_epsilon": 1e-2},
    {"n_head": 1},
    {"n_embd": 36, "n_head": 3},  # heads 12 wide, which the flash kernel does not take
]


def shaped(shape: dict[str, object]) -> GPT2Classifier:
    torch.manual_seed(0)
    common = {"vocab_size": 50, "n_positions": 40, "n_embd": 24, "n_head": 3, "n_layer": 3, "pad_token_id": 0}
    model: GPT2Classifier = GPT2Classifier(GPT2Config(**(common | {"num_labels": 4} | shape))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_gpt2_shape_equals_the_reference(shape: dict[str, object]) -> None:
    model = shaped(shape)
    sequences = [[1, 2, 3], list(range(40)), [7], [4, 5, 6]]
    classifier = packed(model)
    torch.testing.assert_close(classifier(sequences), infer_sequences(model, sequences), atol=1e-4, rtol=1e-5)
    assert classifier.parameters == sum(p.numel() for p in model.parameters())


def test_many_rows_are_split_without_a_seam(model: GPT2Classifier) -> None:
    sequences = [[(i * 7 + j) % 400 for j in range(128)] for i in range(5)]  # 640 rows in two parts
    torch.testing.assert_close(packed(model)(sequences), infer_sequences(model, sequences), atol=1e-4, rtol=1e-5)


def test_prefixes_are_answered_as_sequences_of_their_own(model: GPT2Classifier) -> None:
    classifier = packed(model)
    sequences = [[5, 6, 7, 8], list(range(70)), [9]]
    for ids, logits_tc in zip(sequences, classifier.prefix_logits(sequences), strict=True):
        expected = classifier([ids[:stop] for stop in range(1, len(ids) + 1)])
        torch.testing.assert_close(logits_tc, expected, atol=1e-4, rtol=1e-5)


def test_products_meet_few_numbers_of_rows(model: GPT2Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps compiled code for each number that it has met."""
    met = set[int]()
    classifier = packed(model)
    monkeypatch.setattr(classifier, "_mix", lambda _, hidden_nd, mixed_nd: met.add(len(hidden_nd)))
    for length in range(1, 129):
        for count in (1, 2, 5, 17):
            classifier([[1] * length] * count)
    assert met <= set(range(STEP, 3 * ROWS // 2 + 1, STEP))


@pytest.mark.parametrize("sequences", [[], [[1], []], [[1] * 129]])
def test_impossible_sequences_are_refused(model: GPT2Classifier, sequences: list[list[int]]) -> None:
    with pytest.raises(ModelError, match="1 to 128 tokens"):
        packed(model)(sequences)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_loading_a_file_equals_the_model_in_memory(
    artifact: Artifact, model: GPT2Classifier, precision: Precision
) -> None:
    sequences: Sequence[Sequence[int]] = [[1, 2, 3], [9] * 50]
    from_file = PackedClassifier.load(artifact.directory, precision)
    assert torch.equal(from_file(sequences), packed(model, precision)(sequences))


def test_one_layer_at_a_time_gives_the_same(artifact: Artifact) -> None:
    sequences: Sequence[Sequence[int]] = [[1, 2, 3], [9] * 50]
    kept, passing = (PackedClassifier.load(artifact.directory, keep=keep) for keep in (True, False))
    assert torch.equal(kept(sequences), passing(sequences))
    assert passing.layer_timer(16)(2) > 0


def test_a_classifier_is_gone_with_its_last_reference(artifact: Artifact) -> None:
    """Not with the next round of the garbage collector: two in memory would be one too many."""
    classifier = PackedClassifier.load(artifact.directory)
    seen = weakref.ref(classifier)
    del classifier
    assert seen() is None


def rewritten(artifact: Artifact, **changes: Any) -> Path:
    path = artifact.directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | changes), encoding="utf-8")
    return artifact.directory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"flatten_tokens": 8}, "head 'flatten'"),
        ({"activation_function": "mish"}, "'mish' is not one of gelu"),
        ({"n_inner": 7}, r"transformer\.h\.0\.mlp\.c_fc: weights of .* asks for \(16, 7\)"),
        ({"n_layer": 3}, r"transformer\.h\.2"),
        ({"n_embd": 8}, "config.json"),
    ],
    ids=str,
)
def test_configuration_that_does_not_fit_is_refused(
    artifact_copy: Artifact, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        PackedClassifier.load(rewritten(artifact_copy, **changes))


def test_missing_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded.*config\.json"):
        PackedClassifier.load(tmp_path)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_heads_of_any_width_run_in_every_precision(precision: Precision) -> None:
    model = shaped({"n_embd": 36, "n_head": 3})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    sequences = [[1, 2, 3], list(range(40)), [7]]
    torch.testing.assert_close(
        packed(model, precision)(sequences), infer_sequences(model, sequences), atol=5e-2, rtol=0
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [128, 24])  # heads of 64, and of 12, which the flash kernel does not take
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_cuda_equals_the_reference(precision: Precision, tolerance: float, width: int) -> None:
    model = shaped({"n_embd": width, "n_head": 2, "n_positions": 200, "n_layer": 2})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    sequences = [[(i * 5 + j) % 50 for j in range(length)] for i, length in enumerate((1, 7, 7, 130, 200, 64))]
    got = packed(model, precision, "cuda")(sequences)
    torch.testing.assert_close(got, infer_sequences(model, sequences), atol=tolerance, rtol=tolerance)
