import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from training.config import DistilConfig, PretrainConfig, TrainConfig, load_config
from training.errors import ConfigError

PRESETS = sorted((ROOT / "training" / "configs").glob("*.toml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_preset_loads(preset: Path) -> None:
    kinds: dict[str, Any] = {"pretrain": PretrainConfig, "distil": DistilConfig}
    kind = kinds.get(preset.stem, TrainConfig)
    assert load_config(kind, preset, {}) != kind()


def test_command_line_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("epochs = 7\nseed = 1\n", encoding="utf-8")
    config = load_config(TrainConfig, file, {"seed": 2})
    assert (config.epochs, config.seed, config.batch_size) == (7, 2, TrainConfig().batch_size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch = 3", "unknown setting epoch; known are data, text_column"),
        ("epochs = 0", "epochs must be at least 0.001, is 0"),
        ("batch_size = 1.5", "batch-size must be a whole number, is 1.5"),
        ("batch_size = true", "batch-size must be a whole number, is True"),
        ('weights_dtype = "int4"', "weights-dtype must be one of float32, float16, bfloat16, is 'int4'"),
        ("lr = nan", "lr must be at least"),
        ("val_fraction = 0.5\ntest_fraction = 0.5", "leave less than a fifth"),
        ("max_seq_len = 100\nwindow_stride = 101", "window-stride 101 is above max-seq-len 100"),
        ("epochs =", "cannot be read as TOML"),
        (None, "no such file"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, file, {})
    assert str(file) in str(caught.value) and message in str(caught.value)


def test_stride_is_three_quarters_unless_given() -> None:
    strides = [TrainConfig(max_seq_len=n, window_stride=s).resolved_stride() for n, s in ((512, 0), (1, 0), (512, 100))]
    assert strides == [384, 1, 100]


@pytest.mark.parametrize("kind", [TrainConfig, PretrainConfig, DistilConfig])
def test_every_setting_says_what_it_means(kind: type[TrainConfig]) -> None:
    for field in dataclasses.fields(kind):
        assert len(field.metadata["help"]) > 10, field.name


def test_lists_come_from_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('corpus = ["a.txt", "b.txt.xz"]', encoding="utf-8")
    assert load_config(PretrainConfig, file, {}).corpus == ("a.txt", "b.txt.xz")
    file.write_text('corpus = "a.txt"', encoding="utf-8")
    with pytest.raises(ConfigError, match="corpus must be a list of strings"):
        load_config(PretrainConfig, file, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100, "heads": 3}, "hidden-size 100 is not a multiple of heads 3"),
        ({"block": 2048}, "rows of 2048 tokens are above positions 1024"),
        ({"warmup": 0.5, "decay": 0.6}, "exceed the whole run"),
    ],
)
def test_contradictions_of_pre_training_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(**values)  # type: ignore[arg-type]


def test_flatten_head_refuses_losses_at_inner_tokens() -> None:
    with pytest.raises(ConfigError, match="one answer per text"):
        TrainConfig(head="flatten", dense_from=5)
    with pytest.raises(ConfigError, match="one answer per text"):
        TrainConfig(head="flatten", teacher_labels="teacher")


def test_unlabelled_passages_need_a_teacher() -> None:
    with pytest.raises(ConfigError, match="give teacher-labels"):
        TrainConfig(unlabelled="vectors")
