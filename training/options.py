"""Typed settings: frozen dataclasses that become options of a command line and are made from the given options.

    @dataclass(frozen=True)
    class Recipe:
        epochs: float = setting(3.0, "passes over the training texts", low=0.001)
        files: tuple[str, ...] = setting((), "text files")

        def __post_init__(self) -> None:
            check(self)

    add_options(parser, Recipe)
    recipe = from_options(Recipe, parser.parse_args(["--epochs", "2", "--files", "a.txt", "b.txt"]))

A field is a str, int, float, bool or tuple[str, ...]. The same ranges hold wherever a value comes from: the command
line, a string such as a SageMaker hyper-parameter (`parse`), or a TOML file (`training.config.load_config`).
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from training.errors import ConfigError

TRUE, FALSE = ("true", "yes", "on", "1", ""), ("false", "no", "off", "0")
"""Spellings of a bool. The empty string is true because AWS's clients pass `--flag ""` for a flag without a value."""
METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT"}
TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

POSITIONAL = dataclasses.MISSING
"""Default of a setting that is a positional argument of the command line and must be given."""

Settings = TypeVar("Settings")


def setting(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> Any:
    """Return a dataclass field with its help text and its range; both ends belong to the range.

    Args:
        default: value where none is given.
        text: meaning and unit, shown by `--help`.
        low: smallest value.
        high: largest value.
        choices: the only values allowed.
    """
    return dataclasses.field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices})


def flag(name: str) -> str:
    """Return the option of a field: `--batch-size` of `batch_size`, `--async` of `async_`."""
    return "--" + name.rstrip("_").replace("_", "-")


def help_text(field: "dataclasses.Field[Any]") -> str:
    """Return a field's help for argparse, with its default unless that is empty or the text names it."""
    text: str = field.metadata["help"]
    if field.default not in ("", (), POSITIONAL) and "default:" not in text:
        text += f" (default: {field.default})"
    return text.replace("%", "%%")


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add one option for each field of a dataclass; `from_options` reads them."""
    for field in dataclasses.fields(kind):
        keywords: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": help_text(field)}
        if field.default is POSITIONAL:
            parser.add_argument(field.name, help=keywords["help"], choices=field.metadata["choices"] or None)
            continue
        if field.type is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif field.type == tuple[str, ...]:
            keywords |= {"action": "extend", "nargs": "+", "metavar": "KEY=VALUE" if "=" in keywords["help"] else None}
        else:
            choices = field.metadata["choices"]
            keywords |= {"choices": choices} if choices else {"metavar": METAVARS[field.type]}
        parser.add_argument(flag(field.name), **keywords)


def given_options(kind: type, parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the options that the command line gave, and of no other.

    Raises:
        ConfigError: a value has another type than its field.
    """
    given = vars(parsed)
    return {field.name: parse(field, given[field.name]) for field in dataclasses.fields(kind) if field.name in given}


def from_options(kind: type[Settings], parsed: argparse.Namespace, required: Sequence[str] = ()) -> Settings:
    """Return the settings that the command line gives, defaults where it gives none.

    Args:
        kind: the dataclass whose options `add_options` added.
        parsed: the namespace that the parser returned.
        required: names of the fields that must not be empty.

    Raises:
        ConfigError: a value has another type than its field, or required options are missing; the message names all.
    """
    settings = kind(**given_options(kind, parsed))
    missing = [flag(name) for name in required if not getattr(settings, name)]
    if missing:
        raise ConfigError(f"{', '.join(missing)} must be given")
    return settings


def parse(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return the value of a field from its spelling as a string; other values are returned as they are.

    Whole numbers may be written as `16.0`, which is what SageMaker's tuner does.

    Raises:
        ConfigError: the string spells no value of the field's type.
    """
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str) or field.type is str:
        return value
    text = value.strip()
    try:
        if field.type is bool and text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
        if field.type is float:
            return float(text)
        if field.type is int and not text.lstrip("+-").isdecimal() and float(text).is_integer():
            return int(float(text))
        if field.type is int:
            return int(text)
    except ValueError:
        pass
    raise _wrong_type(field, value)


def check(settings: Any) -> None:
    """Check the type and the range of every field of a dataclass; to be called in its `__post_init__`.

    Raises:
        ConfigError: an option is wrong; the message names the first one, its value and the allowed values.
    """
    for field in dataclasses.fields(settings):
        _check(field, getattr(settings, field.name))


def _check(field: "dataclasses.Field[Any]", value: Any) -> None:
    name = flag(field.name)[2:]
    if field.type == tuple[str, ...]:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} must be a list of strings, is {value!r}")
        return
    allowed: Any = (int, float) if field.type is float else field.type
    if not isinstance(value, allowed) or (isinstance(value, bool) and field.type is not bool):
        raise _wrong_type(field, value)
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, is {value!r}")
    if low is not None and not value >= low:  # written in this way, it also refuses NaN
        raise ConfigError(f"{name} must be at least {low}, is {value}")
    if high is not None and not value <= high:
        raise ConfigError(f"{name} must be at most {high}, is {value}")


def _wrong_type(field: "dataclasses.Field[Any]", value: Any) -> ConfigError:
    return ConfigError(f"{flag(field.name)[2:]} must be {TYPE_NAMES[field.type]}, is {value!r:.100}")
