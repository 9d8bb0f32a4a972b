import argparse
import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import ConfigError
from training.options import add_options, check, from_options, given_options, help_text, parse, setting


@dataclass(frozen=True)
class Recipe:
    epochs: float = setting(3.0, "passes over the texts, 100 % of them", low=0.5, high=10)
    batch_size: int = setting(16, "texts per step", low=1)
    crops: bool = setting(False, "random stretches")
    use_title: bool = setting(True, "titles too")
    head: str = setting("last", "kind of head", choices=("last", "flatten"))
    name: str = setting("", "name; default: the directory's")
    tags: tuple[str, ...] = setting((), "further tags, KEY=VALUE")

    def __post_init__(self) -> None:
        check(self)


FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="recipe", exit_on_error=False)
    add_options(made, Recipe)
    return made


def from_line(line: str) -> Recipe:
    return from_options(Recipe, parser().parse_args(line.split()))


def test_options_become_settings_and_the_rest_keeps_its_default() -> None:
    line = "--epochs 2 --batch-size 8 --crops --no-use-title --head flatten --name x --tags a=1 b=2 --tags c=3"
    assert from_line(line) == Recipe(2.0, 8, True, False, "flatten", "x", ("a=1", "b=2", "c=3"))
    assert from_line("") == Recipe()
    assert given_options(Recipe, parser().parse_args(["--no-crops"])) == {"crops": False}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--epochs many", "epochs must be a number, is 'many'"),
        ("--epochs nan", "epochs must be at least 0.5, is nan"),
        ("--epochs 11", "epochs must be at most 10, is 11.0"),
        ("--batch-size 1.5", "batch-size must be a whole number, is '1.5'"),
        ("--batch-size 0", "batch-size must be at least 1, is 0"),
    ],
)
def test_wrong_values_are_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        from_line(line)


def test_values_outside_the_choices_are_refused_wherever_they_come_from() -> None:
    with pytest.raises(argparse.ArgumentError, match="'first'"):
        from_line("--head first")
    with pytest.raises(ConfigError, match="head must be one of last, flatten, is 'first'"):
        Recipe(head="first")


def test_all_missing_options_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match="--name, --tags must be given"):
        from_options(Recipe, parser().parse_args([]), required=("name", "epochs", "tags"))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("batch_size", "16.0", 16), ("batch_size", " 16 ", 16), ("batch_size", "1e3", 1000), ("crops", "", True),
        ("crops", "True", True), ("crops", "off", False), ("name", " x ", " x "), ("epochs", 2, 2),
    ],
)  # fmt: skip
def test_spellings_of_values(name: str, text: object, value: object) -> None:
    assert parse(FIELDS[name], text) == value


@pytest.mark.parametrize(("name", "text"), [("crops", "maybe"), ("batch_size", "inf"), ("batch_size", "")])
def test_wrong_spellings_are_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        parse(FIELDS[name], text)


@given(st.integers())
def test_large_whole_numbers_stay_exact(number: int) -> None:
    assert parse(FIELDS["batch_size"], str(number)) == number


def test_help_shows_defaults_once_and_per_cent_signs() -> None:
    assert help_text(FIELDS["name"]) == "name; default: the directory's"
    shown = " ".join(parser().format_help().split())
    assert "passes over the texts, 100 % of them (default: 3.0)" in shown
    assert "--use-title, --no-use-title titles too (default: True)" in shown
    assert "--tags KEY=VALUE" in shown and "(default: ())" not in shown
