"""Plans as options of the command line: one flag a field, made from its name, type, default and help."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from training.sagemaker.errors import LaunchError

Plan = TypeVar("Plan")


def add_options(parser: argparse.ArgumentParser, plan: type) -> None:
    for field in dataclasses.fields(plan):
        flag = "--" + field.name.replace("_", "-")
        text = field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        elif field.type == tuple[str, ...]:
            parser.add_argument(
                flag,
                action="append",
                default=[],
                metavar="KEY=VALUE" if "=" in text else "VALUE",
                help=f"{text}; repeatable",
            )
        else:
            shown = text if field.default in ("", 0, -1) else f"{text} (default: {field.default})"
            choices = field.metadata["choices"] or None
            parser.add_argument(flag, type=field.type, default=field.default, choices=choices, help=shown)


def plan_of(kind: type[Plan], parsed: argparse.Namespace, required: Sequence[str] = ()) -> Plan:
    """The plan that the options make.

    Raises:
        LaunchError: naming all required options that were left out.
    """
    missing = ["--" + name.replace("_", "-") for name in required if not getattr(parsed, name)]
    if missing:
        raise LaunchError(f"needs {', '.join(missing)}")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = getattr(parsed, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
