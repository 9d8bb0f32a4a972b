import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPT2ForSequenceClassification, GPT2LMHeadModel

from classifier.artifact import Artifact
from classifier.encoding import pad
from classifier.errors import ModelError
from classifier.flatten import FlattenClassifier
from classifier.labels import Labels
from classifier.model import GPT2Classifier, infer, infer_sequences, load_base, load_base_tokenizer, load_weights
from tests.support.tiny_model import LABELS

rows = st.lists(st.lists(st.integers(0, 399), min_size=1, max_size=60), min_size=1, max_size=10)


def write_config(source: Path, target: Path, **changes: object) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def refuses(base: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_base(base, LABELS)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_logits_do_not_depend_on_neighbours_or_side(model: GPT2Classifier, sequences: list[list[int]]) -> None:
    """The law of this project. Token 0, the padding, stands in these sequences too, at their ends as well."""
    alone = torch.cat([infer(model, pad([ids], 0)) for ids in sequences])
    for side in ("left", "right"):
        together = infer(model, pad(sequences, 0, side))
        assert torch.isfinite(together).all()
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)


def test_the_law_is_not_vacuous(model: GPT2Classifier) -> None:
    """GPT2Model's own numbering of left-padded rows breaks the law on this model, so the test above can fail."""
    batch = pad([[5, 6, 7], list(range(1, 31))], 0, "left")
    right = infer(model, batch)
    columns = np.broadcast_to(np.arange(batch.ids_bt.shape[1]), batch.ids_bt.shape).copy()
    shifted = infer(model, type(batch)(batch.ids_bt, batch.mask_bt, columns))
    assert (right[0] - shifted[0]).abs().max() > 0.05
    assert torch.allclose(right[1], shifted[1], atol=1e-4)  # a row without padding is the same


def test_pooling_goes_by_the_mask_not_by_the_token(model: GPT2Classifier) -> None:
    """GPT2ForSequenceClassification would pool a text that ends with the padding token one token early."""
    with_end, without = infer_sequences(model, [[5, 6, 0]]), infer_sequences(model, [[5, 6]])
    assert (with_end - without).abs().max() > 0.01


def test_right_padded_rows_equal_transformers_own_class(model: GPT2Classifier, artifact: object) -> None:
    theirs = GPT2ForSequenceClassification.from_pretrained(artifact.directory, dtype=torch.float32).eval()  # type: ignore[attr-defined]
    batch = pad([[5, 6, 7], [8, 9]], 0, "right")
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(batch.ids_bt), attention_mask=torch.from_numpy(batch.mask_bt)).logits
    torch.testing.assert_close(infer(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_loss_is_the_cross_entropy_of_the_last_tokens(model: GPT2Classifier) -> None:
    batch = pad([[5, 6, 7], [8]], 0)
    labels = torch.tensor([2, 0])
    output = model(torch.from_numpy(batch.ids_bt), torch.from_numpy(batch.mask_bt), labels=labels)
    expected = torch.nn.functional.cross_entropy(infer(model, batch), labels)
    torch.testing.assert_close(output.loss, expected)


def test_base_gives_everything_but_the_head(base_model: Path) -> None:
    language_model = GPT2LMHeadModel.from_pretrained(base_model, dtype=torch.float32)
    classifier = load_base(str(base_model), LABELS)
    assert classifier.score.weight.shape == (3, 16)
    assert classifier.config.pad_token_id == 0
    assert classifier.config.id2label == {0: "business", 1: "politics", 2: "sport"}
    for name, parameter in language_model.transformer.named_parameters():
        assert torch.equal(parameter, classifier.transformer.get_parameter(name)), name


def test_half_precision_base_is_trained_in_float32(base_model: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel.from_pretrained(base_model, dtype=torch.float16).save_pretrained(tmp_path)
    assert load_base(str(tmp_path), LABELS).dtype == torch.float32


def test_random_weights_need_only_the_configuration(base_model: Path, tmp_path: Path) -> None:
    write_config(base_model, tmp_path)
    assert load_base(str(tmp_path), LABELS, random_weights=True).config.n_embd == 16
    refuses(str(tmp_path), "weights cannot be loaded")
    with pytest.raises(ModelError, match="tokenizer"):
        load_base_tokenizer(str(tmp_path))


def test_missing_layer_is_refused_not_made_up(base_model: Path, tmp_path: Path) -> None:
    weights = load_file(base_model / "model.safetensors")
    gone = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_config(base_model, tmp_path)
    refuses(str(tmp_path), r"weights missing: transformer\.h\.1\.mlp\.c_fc\.weight \(1 in all\)")


def test_unknown_base_says_what_was_looked_for(tmp_path: Path) -> None:
    refuses(str(tmp_path / "nothing"), r"neither a local directory with a config\.json nor a model that the hub")
    refuses(
        "someone/unknown", r"base model 'someone/unknown'.*--base-model takes a local directory"
    )  # the hub is off in tests


@pytest.mark.parametrize("labels", [LABELS, Labels(("a", "b"))], ids=["its labels", "other labels"])
@pytest.mark.parametrize("kind", [GPT2Classifier, FlattenClassifier])
def test_a_classifier_is_no_base_unless_asked_and_gets_a_new_head(
    artifact: Artifact, labels: Labels, kind: type[GPT2Classifier]
) -> None:
    base = str(artifact.directory)
    extra = {"flatten_tokens": 8, "padded_rows": "transformers-4"}
    with pytest.raises(ModelError, match=r"is a classifier already.*--allow-classifier-base"):
        load_base(base, labels, kind=kind, extra_config=extra)
    torch.manual_seed(1)
    model = load_base(base, labels, kind=kind, extra_config=extra, allow_classifier=True)
    assert model.base_was_classifier and len(model.score.weight) == len(labels)
    assert 0.01 < model.score.weight.std() < 0.04  # that of a new head, not of the artifact's, which is 8 times larger
    assert torch.equal(model.transformer.wte.weight, artifact.model().transformer.wte.weight)


def test_a_classifier_of_tokens_is_no_base(base_model: Path, tmp_path: Path) -> None:
    write_config(base_model, tmp_path)
    weights = load_file(base_model / "model.safetensors") | {"classifier.weight": torch.zeros(2, 16)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refuses(str(tmp_path), "is a classifier already")


def test_base_weights_of_another_shape_are_refused(base_model: Path, tmp_path: Path) -> None:
    write_config(base_model, tmp_path, n_positions=64)
    shutil.copy(base_model / "model.safetensors", tmp_path)
    refuses(str(tmp_path), r"weights of another shape: transformer\.wpe\.weight \(1 in all\)")


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    refuses(str(tmp_path), "is a 'bert' model; a GPT-2 is needed")


def test_base_tokenizer_is_the_bases_own(base_model: Path) -> None:
    assert load_base_tokenizer(str(base_model)).get_vocab_size() == 400


def test_weights_of_another_shape_are_refused(model: GPT2Classifier, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    write_config(tmp_path, tmp_path, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_weights(tmp_path)


def test_same_seed_same_head(base_model: Path) -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        heads.append(load_base(str(base_model), Labels(("a", "b"))).score.weight.detach().clone())
    assert torch.equal(*heads)


def test_damaged_base_files_are_model_errors(base_model: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(base_model, tmp_path / "base")
    (damaged / "model.safetensors").write_bytes(b"garbage" * 100)
    refuses(str(damaged), "weights cannot be loaded")
    (damaged / "tokenizer.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_base_tokenizer(str(damaged))


@pytest.mark.parametrize(
    ("changes", "expected"), [({"eos_token_id": None}, 0), ({"pad_token_id": 5}, 5), ({"pad_token_id": 400}, None)]
)
def test_padding_id_is_found_or_refused(
    base_model: Path, tmp_path: Path, changes: dict[str, object], expected: int | None
) -> None:
    write_config(base_model, tmp_path, **changes)
    if expected is None:
        with pytest.raises(ModelError, match="pad_token_id 400 is outside the vocabulary of 400"):
            load_base(str(tmp_path), LABELS, random_weights=True)
    else:
        assert load_base(str(tmp_path), LABELS, random_weights=True).config.pad_token_id == expected
