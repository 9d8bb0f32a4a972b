"""Distillation for real: two layers, width 16, seconds on a CPU."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from classifier.errors import ModelError
from classifier.model import load_base, load_base_tokenizer
from tests.support.runs import finish, start
from tests.support.texts import documents
from tests.support.tiny_model import LABELS
from tests.support.tiny_teacher import write_teacher
from tests.unit.training.fit.test_distributed import TORCHRUN
from training.config import DistilConfig
from training.errors import ConfigError
from training.fit.distil import distil


@pytest.fixture
def config(tmp_path: Path, base_model: Path, news_csv: Path) -> DistilConfig:
    write_teacher(tmp_path / "teacher")
    source = tmp_path / "corpus.txt"
    source.write_text("\n<|endoftext|>\n".join(documents()), encoding="utf-8")
    return DistilConfig(
        corpus=(str(source),), teacher=str(tmp_path / "teacher"), base_model=str(base_model),
        output=str(tmp_path / "student"), passages=1024, max_tokens=48, steps=24, batch_size=64, lr=1e-2,
        val_fraction=0.2, save_steps=10, eval_steps=20, probe=(str(news_csv), str(news_csv)),
    )  # fmt: skip


def words(config: DistilConfig) -> list[str]:
    """Return the settings as options."""
    options: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            options += ["--" + field.name.replace("_", "-"), *(value if isinstance(value, tuple) else [str(value)])]
    return options


def digest(directory: str) -> str:
    return hashlib.sha256((Path(directory) / "model.safetensors").read_bytes()).hexdigest()


def test_student_learns_and_can_be_fine_tuned_from(config: DistilConfig, tokenizer: Tokenizer) -> None:
    untrained = distil(dataclasses.replace(config, steps=1, lr=1e-9, output=config.output + "-0"))
    measured = distil(config)
    assert untrained is not None and measured is not None
    assert measured["cosine"] > 0.8 and measured["cosine"] > untrained["cosine"] + 0.3
    lengths = [measured[f"cosine_{n}"] for n in (8, 16, 32, 64)]
    assert min(lengths) < measured["cosine"] < max(lengths)
    assert 0.2 < measured["probe_news"] <= 1.0  # the second file of this name is the first one, on which it was fitted
    assert measured["passages_seen"] == 24 * 64
    assert load_base_tokenizer(config.output).get_vocab() == tokenizer.get_vocab()
    assert load_base(config.output, LABELS).config.n_embd == 16
    with safe_open(Path(config.output) / "model.safetensors", "numpy") as weights:
        assert not any("projection" in name for name in weights.keys())  # noqa: SIM118  # not a dict
    card = (Path(config.output) / "README.md").read_text(encoding="utf-8")
    assert "| cosine |" in card and str(Path(config.output).parent) not in card


def test_killed_run_ends_with_the_weights_of_one_that_was_not(config: DistilConfig, tmp_path: Path) -> None:
    # two epochs of one shard, so that the second is read in another order
    config = dataclasses.replace(config, probe=())
    whole = dataclasses.replace(config, output=str(tmp_path / "whole"))
    distil(whole)
    process = start("distil", *words(config), stderr=None)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step=20/24"):  # the checkpoint of step 10 is complete, that of 20 perhaps
            break
    process.kill()
    process.communicate()
    assert not Path(config.output).exists()
    distil(config)
    assert digest(config.output) == digest(whole.output)


def test_a_run_goes_on_from_a_checkpoint_with_its_projection(config: DistilConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, probe=())
    before = distil(config)
    further = dataclasses.replace(
        config, base_model=config.output + "-checkpoints/checkpoint-24", steps=1, lr=1e-9, output=str(tmp_path / "next")
    )
    after = distil(dataclasses.replace(further, vectors=config.output + "-checkpoints/vectors"))
    without = distil(dataclasses.replace(further, base_model=config.output, output=str(tmp_path / "other")))
    assert before is not None and after is not None and without is not None
    assert after["cosine"] == pytest.approx(before["cosine"], abs=1e-3)
    assert without["cosine"] < before["cosine"] - 0.3


@pytest.mark.slow
def test_two_processes_share_teaching_and_training(config: DistilConfig) -> None:
    code, output, errors = finish("distil", *words(dataclasses.replace(config, probe=())), launcher=TORCHRUN)
    assert code == 0, errors[-3000:]
    cosine = float(output.partition("cosine=")[2].partition(";")[0])
    assert cosine > 0.8 and output.count("wrote ") == 1


def test_new_student_gets_a_tokenizer_and_may_learn_language_too(config: DistilConfig) -> None:
    fresh = dataclasses.replace(
        config, base_model="", vocab_size=500, layers=1, hidden_size=12, heads=2, positions=64, steps=20,
        language_model=0.1, probe=(),
    )  # fmt: skip
    measured = distil(fresh)
    assert measured is not None and measured["cosine"] > 0.6
    shape = load_base(config.output, LABELS).config
    assert (shape.vocab_size, shape.n_layer, shape.n_embd) == (500, 1, 12)


def test_what_can_be_refused_is_refused_before_training(
    config: DistilConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fit.loop.OrderedTrainer.train", lambda *_, **__: pytest.fail("training began"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    distilled = config.output + "-checkpoints"
    with pytest.raises(BaseException, match="training began"):
        distil(config)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, "teacher, corpus and output", {"teacher": ""}),
        (ModelError, "teacher .* cannot be loaded", {"teacher": str(tmp_path / "none")}),
        (ConfigError, "above the 128 positions of the base model", {"max_tokens": 200}),
        (ConfigError, "already exists", {"output": str(tmp_path / "taken")}),
        (ConfigError, "mixing is 0.3 there and 0.5 here", {"vectors": distilled + "/vectors", "mixing": 0.5}),
    ]
    for number, (kind, message, settings) in enumerate(refused):
        places = {"checkpoints": f"{config.output}-{number}"} | settings
        with pytest.raises(kind, match=message):
            distil(dataclasses.replace(config, **places))
