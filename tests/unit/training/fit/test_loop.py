"""The training loop on any hardware: precisions, several GPUs, and runs that diverge."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from classifier import Precision
from classifier.artifact import Artifact
from service.errors import EngineLoadError
from service.model.load_engine import load_torch_engine
from service.settings import Settings
from tests.support.runs import run
from tests.support.texts import news_rows
from training.config import TrainConfig
from training.errors import DivergedError
from training.fit.checkpoints import complete_steps
from training.fit.loop import setting_of_machine
from training.fit.trainer import ClassifierTrainer


@pytest.fixture
def config(news_csv: Path, base_model: Path, tmp_path: Path) -> TrainConfig:
    """Settings of a run of 2 epochs of 6 steps."""
    return TrainConfig(
        data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "model"), max_seq_len=32, epochs=2.0,
        batch_size=8, lr=5e-3, dropout=0.0, seed=5, baseline=False, report=False,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["last_token", "flatten"])
def trained(request: pytest.FixtureRequest, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact that was trained under bfloat16's autocast, which runs on any CPU."""
    directory = tmp_path_factory.mktemp("precisions")
    data = directory / "news.csv"
    lines = [f"{row['label']},{row['text']}\n" for row in news_rows(60)]
    data.write_text("".join(["label,text\n", *lines]), encoding="utf-8")
    return run(
        TrainConfig(
            data=str(data), base_model=str(base_model), output=str(directory / "model"), head=request.param,
            precision="bfloat16", max_seq_len=32, epochs=8.0, batch_size=8, lr=5e-3, dropout=0.0, seed=5,
            baseline=False, report=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 0.03), ("int8", 0.03)])
def test_golden_texts_of_training_under_autocast_are_accepted_in_each_precision(
    trained: Artifact, precision: Precision, near: float
) -> None:
    settings = Settings(model_dir=trained.directory, precision=precision)
    if trained.manifest.head == "flatten" and precision != "float32":
        with pytest.raises(EngineLoadError, match="runs in float32 only"):
            load_torch_engine(settings)
        return
    difference = load_torch_engine(settings).info.golden_difference
    assert difference < near
    logits = torch.tensor([golden.logits for golden in trained.manifest.golden])
    assert (logits - logits.mean(0)).abs().max() > 0.5, "a model that answers all texts alike agrees in anything"


def test_head_flatten_trains_in_float32(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flatten = dataclasses.replace(config, head="flatten")
    asked = [
        run(dataclasses.replace(flatten, precision=precision, output=str(tmp_path / precision)))
        for precision in ("bfloat16", "float32")
    ]
    assert asked[0].weights_sha256 == asked[1].weights_sha256
    assert capsys.readouterr().err.count("warning: the head flatten trains in float32") == 1
    assert setting_of_machine(dataclasses.replace(flatten, precision="bfloat16"))["precision"] == "float32"
    assert setting_of_machine(dataclasses.replace(config, precision="bfloat16"))["precision"] == "bfloat16"


def test_one_of_several_gpus_is_used_without_torchrun(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run(dataclasses.replace(config, output=str(tmp_path / "alone")))
    assert "torchrun" not in capsys.readouterr().err

    def find_devices(arguments: TrainingArguments) -> torch.device:
        if "found" not in vars(arguments):
            vars(arguments)["found"] = finds_devices.func(arguments)
            arguments._n_gpu = 4
        device: torch.device = vars(arguments)["found"]
        return device

    finds_devices = TrainingArguments._setup_devices
    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(find_devices))
    monkeypatch.setattr(torch.nn.DataParallel, "__init__", lambda *_: pytest.fail("the model is wrapped"))
    assert run(config).weights_sha256 == alone.weights_sha256
    error = capsys.readouterr().err
    assert "warning: one of 4 GPUs is used" in error and "torchrun --nproc-per-node 4 -m training" in error


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_run_whose_loss_is_not_finite_ends_before_its_weights_change(
    average: float, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = ClassifierTrainer.compute_loss, 0

    def lose(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments, **keywords) * (math.inf if calls == 9 else 1.0)

    monkeypatch.setattr(ClassifierTrainer, "compute_loss", lose)
    diverging = dataclasses.replace(config, checkpoints=str(tmp_path / "checkpoints"), average=average)
    message = r"diverged at step 9 of 12: the norm of the gradients is (nan|inf)\. Use a smaller --lr"
    with pytest.raises(DivergedError, match=message):
        run(diverging)
    assert not Path(config.output).exists() and complete_steps(tmp_path / "checkpoints") == [6]


def test_evaluation_with_one_loss_that_is_not_finite_ends_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = ClassifierTrainer.eval_sums, 0

    def lose(*arguments: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        sums = original(*arguments)
        return sums | {"loss": sums["loss"] * (math.nan if calls == 2 else 1.0)}

    monkeypatch.setattr(ClassifierTrainer, "eval_sums", lose)
    with pytest.raises(DivergedError, match="diverged at step 12 of 12: the validation loss is nan"):
        run(config)
    assert not Path(config.output).exists()


def test_base_whose_numbers_overflow_is_a_diverged_run(config: TrainConfig, tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    base = tmp_path / "base"
    model = GPT2LMHeadModel.from_pretrained(config.base_model)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(3e38)
    model.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((Path(config.base_model) / name).read_bytes())
    with pytest.raises(DivergedError, match="diverged at step 1 of 12"):
        run(dataclasses.replace(config, base_model=str(base)))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (4, 1), (2, 2), (3, 2)])
def test_losses_of_a_step_are_divided_by_its_texts(
    batch_size: int, accumulation: int, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of 1 for a part of the rows and w for the others, a step's loss is their weighted mean."""
    original = ClassifierTrainer.compute_loss
    rows: dict[int, list[int]] = {}

    def spy(trainer: Any, model: Any, inputs: dict[str, Any], **given: Any) -> torch.Tensor:
        step, labels = trainer.state.global_step, inputs["labels"]
        loss = original(trainer, model, inputs, **given)
        weights, trainer._weights = trainer._weights, None
        plain = original(trainer, model, {**inputs, "labels": labels}, **given)
        trainer._weights = weights
        rows.setdefault(step, []).append(len(labels))
        texts.setdefault(step, set()).add(int(given["num_items_in_batch"]))
        if len(labels) == 1:
            torch.testing.assert_close(loss, plain * weights[labels[0]])
        return loss  # type: ignore[no-any-return]

    texts: dict[int, set[int]] = {}
    monkeypatch.setattr(ClassifierTrainer, "compute_loss", spy)
    run(
        dataclasses.replace(
            config, epochs=1.0, batch_size=batch_size, gradient_accumulation=accumulation, class_weights=True
        )
    )
    assert sum(map(sum, rows.values())) == 48
    assert all(texts[step] == {sum(sizes)} for step, sizes in rows.items())
