"""Hyper-parameters arrive as strings, in the two forms that AWS's clients write."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import TrainConfig
from training.errors import ConfigError
from training.sagemaker.job.hyperparameters import ALIASES, PLACED, parse_hyperparameters, training_config

NAMES = [field.name for field in dataclasses.fields(TrainConfig) if field.name not in PLACED]
DEFAULTS = {name: getattr(TrainConfig(), name) for name in NAMES}


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.booleans(), st.sampled_from("-_"), st.data())
def test_every_setting_survives_the_way_through_strings(
    name: str, quoted: bool, dash: str, data: st.DataObject
) -> None:
    values = {
        bool: st.booleans(),
        int: st.integers(-(10**9), 10**9),
        float: st.floats(allow_nan=False),
        str: st.text().filter(lambda text: not (len(text) > 1 and text[0] == text[-1] == '"')),
    }
    value = data.draw(values[type(DEFAULTS[name])])
    sent = value if isinstance(value, str) else json.dumps(value)
    sent = json.dumps(sent) if quoted else sent
    assert parse_hyperparameters({name.replace("_", dash): sent}) == {name: value}


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "on", ""])
def test_true_has_many_spellings(text: str) -> None:
    assert parse_hyperparameters({"allow-leaks": text}) == {"allow_leaks": True}


def test_the_articles_names_and_other_scripts_names_are_known() -> None:
    article = {"epochs": "1", "batch-size": "2", "lr": "1e-05", "seed": "1", "hidden-size": "768", "max-seq-len": "128"}
    assert parse_hyperparameters(article) == {
        "epochs": 1.0, "batch_size": 2, "lr": 1e-5, "seed": 1, "hidden_size": 768, "max_seq_len": 128,
    }  # fmt: skip
    assert parse_hyperparameters({"learning-rate": "0.1", "max_length": "16.0"}) == {"lr": 0.1, "max_seq_len": 16}
    assert set(ALIASES.values()) <= set(NAMES)


def test_the_platforms_own_are_passed_over() -> None:
    assert parse_hyperparameters({"sagemaker_program": '"x.py"', "_tuning_objective_metric": "a"}) == {}


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_hyperparameters({"epoch": "3", "batch-size": "many", "data": "x", "lr": "1", "learning_rate": "2"})
    message = str(caught.value)
    assert "unknown hyper-parameter 'epoch'" in message and "epochs, batch-size" in message
    assert "batch-size must be a whole number, is 'many'" in message
    assert "data is set by the container" in message and "learning_rate is given twice" in message


def test_recipe_stands_below_what_is_given() -> None:
    config = training_config(parse_hyperparameters({"config": '"gpt2"', "epochs": "1"}), data="d", output="o")
    assert (config.epochs, config.crops, config.lr, config.data) == (1.0, True, 5e-5, "d")
    for name in ("none", "../configs/gpt2"):
        with pytest.raises(ConfigError, match="there are default, gpt2"):
            training_config({"config": name})


def test_value_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match="batch-size must be at least 1, is 0"):
        training_config(parse_hyperparameters({"batch-size": "0"}))
