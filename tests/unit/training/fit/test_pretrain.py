"""Pre-training for real: two layers, width 16, seconds on a CPU."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from classifier.model import load_base, load_base_tokenizer
from tests.support.runs import start
from tests.support.texts import corpus
from tests.support.tiny_model import LABELS
from training.config import PretrainConfig
from training.errors import ConfigError, DataError
from training.fit.pretrain import pretrain


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    source = tmp_path / "corpus.txt"
    source.write_text("\n<|endoftext|>\n".join(corpus()), encoding="utf-8")
    return PretrainConfig(
        corpus=(str(source),), output=str(tmp_path / "base"), vocab_size=400, layers=2, hidden_size=16, heads=2,
        positions=64, block=32, batch_size=8, steps=30, lr=1e-2, val_fraction=0.1, save_steps=10, eval_steps=20,
    )  # fmt: skip


def digest(directory: str) -> str:
    return hashlib.sha256((Path(directory) / "model.safetensors").read_bytes()).hexdigest()


def test_the_base_learns_and_can_be_fine_tuned_from(config: PretrainConfig) -> None:
    measured = pretrain(config)
    assert measured is not None
    assert measured["val_loss"] < 0.9 * math.log(400)  # untrained, every token is as likely as any other
    blocks = (Path(config.output + "-checkpoints") / "train.tokens").stat().st_size // 2 // 32
    assert measured["tokens_seen"] == round(30 * blocks / math.ceil(blocks / 8)) * 32
    # nats a token to bits per byte, by the held-out file itself
    record = (Path(config.output + "-checkpoints") / "tokens.json").read_text(encoding="utf-8")
    assert '"val"' in record
    assert 0.2 < measured["val_bits_per_byte"] / measured["val_loss"] < 1.0
    tokenizer = load_base_tokenizer(config.output)
    model = load_base(config.output, LABELS)
    assert tokenizer.get_vocab_size() == model.config.vocab_size == 400
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (2, 16, 64)
    card = (Path(config.output) / "README.md").read_text(encoding="utf-8")
    assert "bits per byte" in card and str(Path(config.output).parent) not in card


def test_validation_loss_is_that_of_the_stored_weights_in_float32(config: PretrainConfig) -> None:
    measured = pretrain(dataclasses.replace(config, precision="bfloat16", steps=20, weights_dtype="bfloat16"))
    assert measured is not None
    model = GPT2LMHeadModel.from_pretrained(config.output, dtype=torch.float32).eval()
    tokens = np.fromfile(config.output + "-checkpoints/val.tokens", dtype=np.uint16).astype(np.int64)
    blocks = torch.from_numpy(tokens[: len(tokens) // 32 * 32]).view(-1, 32)
    with torch.inference_mode():
        logits = model(input_ids=blocks).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
    assert measured["val_loss"] == pytest.approx(expected.item(), abs=1e-6)


def test_going_on_from_a_base_keeps_its_shape_and_tokenizer(
    config: PretrainConfig, base_model: Path, tokenizer: Tokenizer
) -> None:
    further = dataclasses.replace(config, base_model=str(base_model), layers=9, weights_dtype="float32")
    assert pretrain(dataclasses.replace(further, steps=1, lr=1e-9)) is not None
    before, after = load_base(str(base_model), LABELS), load_base(config.output, LABELS)
    assert load_base_tokenizer(config.output).get_vocab() == tokenizer.get_vocab()
    for name, weight in before.transformer.state_dict().items():
        torch.testing.assert_close(after.transformer.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_killed_run_ends_with_the_weights_of_one_that_was_not(config: PretrainConfig, tmp_path: Path) -> None:
    whole = dataclasses.replace(config, output=str(tmp_path / "whole"), checkpoints=str(tmp_path / "whole-checkpoints"))
    pretrain(whole)
    flags = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != field.default and field.name != "corpus"
    }
    arguments = [item for key, value in flags.items() for item in (f"--{key.replace('_', '-')}", str(value))]
    process = start("pretrain", "--corpus", *config.corpus, *arguments, stderr=None)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step=20/30"):  # the checkpoint of step 10 is complete, that of 20 perhaps
            break
    process.kill()
    process.communicate()
    assert not Path(config.output).exists()
    pretrain(config)
    assert digest(config.output) == digest(whole.output)


def test_output_may_end_with_a_slash_and_advice_can_be_followed(config: PretrainConfig) -> None:
    slash = dataclasses.replace(config, output=config.output + "/", steps=2)
    with pytest.raises(DataError, match="or a smaller --vocab-size"):
        pretrain(dataclasses.replace(slash, vocab_size=16384))
    assert pretrain(slash) is not None
    assert (Path(config.output) / "model.safetensors").is_file()
    assert (Path(config.output + "-checkpoints") / "checkpoint-2").is_dir()


def test_changed_corpus_is_another_run(config: PretrainConfig) -> None:
    short = dataclasses.replace(config, steps=2, checkpoints=config.output + "-checkpoints")
    pretrain(short)
    source = Path(config.corpus[0])
    source.write_text(source.read_text(encoding="utf-8") + " more", encoding="utf-8")
    with pytest.raises(ConfigError, match="checkpoints of another run: corpus is"):
        pretrain(dataclasses.replace(short, output=config.output + "-again"))


def test_what_can_be_refused_is_refused_before_training(
    config: PretrainConfig, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fit.loop.OrderedTrainer.train", lambda *_, **__: pytest.fail("training began"))
    refused: list[tuple[str, dict[str, Any]]] = [
        ("both corpus and output", {"output": ""}),
        ("above the 128 positions of the base model", {"base_model": str(base_model), "block": 512}),
        ("0 to validate on", {"positions": 2048, "block": 2048}),
        ("within the output", {"checkpoints": config.output + "/checkpoints"}),
        ("cannot be written", {"output": config.corpus[0] + "/base"}),
        ("already exists", {"output": str(tmp_path / "taken")}),
    ]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for number, (message, settings) in enumerate(refused):
        places = {"checkpoints": f"{config.output}-{number}"} | settings
        with pytest.raises(ConfigError, match=message):
            pretrain(dataclasses.replace(config, **places))
