"""Requests against botocore's own description of the API.

botocore checks names, types and required fields; here also lengths, ranges, patterns and enumerations, and then what
rules.py knows of several fields together. Everything wrong is reported at once, with its path. No AWS call is made.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape

from training.sagemaker.errors import Refusal, RequestError
from training.sagemaker.launch.calls import Call, Step
from training.sagemaker.launch.rules import broken_rules

SHOWN_CHARACTERS = 80


def check(steps: Sequence[Step]) -> None:
    """
    Raises:
        RequestError: with every problem of every call.
    """
    refusals = [refusal for step in steps if isinstance(step, Call) for refusal in refusals_of(step)]
    if refusals:
        raise RequestError(refusals)


def refusals_of(call: Call) -> list[Refusal]:
    """All that AWS would refuse of one call."""
    shape = operation(call.service, call.operation).input_shape
    found = list(_problems(shape, call.request, "")) if shape is not None else []
    found += broken_rules(call.operation, call.request)
    return [Refusal(call.operation, path, message) for path, message in found]


@functools.cache
def operation(service: str, name: str) -> OperationModel:
    return _session().get_service_model(service).operation_model(name)


@functools.cache
def _session() -> botocore.session.Session:
    return botocore.session.Session()


Problem = tuple[str, str]
"""Path and message."""


def _problems(shape: Shape, value: Any, path: str) -> Iterator[Problem]:
    expected, fits = _TYPES.get(shape.type_name, ("", lambda _: True))
    if not fits(value):
        yield path, f"must be {expected}, not {type(value).__name__}"
    elif isinstance(shape, StructureShape):
        yield from _structure(shape, value, path)
    elif isinstance(shape, ListShape):
        yield from _size(shape, len(value), path, "entries")
        for i, item in enumerate(value):
            yield from _problems(shape.member, item, f"{path}[{i}]")
    elif isinstance(shape, MapShape):
        yield from _size(shape, len(value), path, "entries")
        for key, item in value.items():
            yield from _problems(shape.key, key, f"{path}[{_short(key)!r}] (the key)")
            yield from _problems(shape.value, item, f"{path}[{_short(key)!r}]")
    elif isinstance(shape, StringShape):
        yield from _string(shape, value, path)
    elif shape.type_name == "blob":
        yield from _size(shape, len(value), path, "bytes")
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _size(shape, value, path, "")


def _structure(shape: StructureShape, value: Mapping[str, Any], path: str) -> Iterator[Problem]:
    prefix = f"{path}." if path else ""
    for name in shape.required_members:
        if name not in value:
            yield f"{prefix}{name}", "is required"
    if getattr(shape, "is_tagged_union", False) and len(value) != 1:
        yield path, f"needs exactly one of {', '.join(shape.members)}"
    for name, item in value.items():
        if name in shape.members:
            yield from _problems(shape.members[name], item, f"{prefix}{name}")
        else:
            yield f"{prefix}{name}", "is no field of this request"


def _string(shape: StringShape, value: str, path: str) -> Iterator[Problem]:
    yield from _size(shape, len(value), path, "characters")
    if shape.enum and value not in shape.enum:
        near = [name for name in shape.enum if name.split(".")[:2] == value.split(".")[:2]] or shape.enum
        names = ", ".join(near[:20]) + (f" and {len(near) - 20} more" if len(near) > 20 else "")
        yield path, f"{_short(value)!r} is not one of {names}"
    pattern = shape.metadata.get("pattern")
    if pattern and not compiled(pattern).fullmatch(value):
        yield path, f"{_short(value)!r} does not match {pattern}"


def _size(shape: Shape, size: float, path: str, unit: str) -> Iterator[Problem]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and size < low) or (high is not None and size > high):
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        yield path, f"has {size} {unit}, allowed: {limits}" if unit else f"is {size}, allowed: {limits}"


def _short(text: object) -> str:
    plain = str(text)
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[: SHOWN_CHARACTERS - 3] + "..."


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, tuple[str, Any]] = {
    "structure": ("an object", lambda value: isinstance(value, Mapping)),
    "map": ("an object", lambda value: isinstance(value, Mapping)),
    "list": ("a list", lambda value: isinstance(value, list | tuple)),
    "string": ("a string", lambda value: isinstance(value, str)),
    "blob": ("bytes", lambda value: isinstance(value, bytes)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", _is_whole),
    "long": ("a whole number", _is_whole),
    "float": ("a number", _is_number),
    "double": ("a number", _is_number),
}


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of the API, in Java's syntax, as Python reads it."""
    pattern = re.sub(r"\\u(D[89AB]..)\\u(D[C-F]..)", _surrogates, pattern, flags=re.IGNORECASE)
    pattern = pattern.replace(r"\z", r"\Z")
    parts, in_class = [], False
    for token in re.findall(r"\\p\{\w+\}|\\.|.", pattern, re.DOTALL):
        if token.startswith("\\p{"):
            inside = _character_class(token[3:-1])
            parts.append(inside if in_class else f"[{inside}]")
            continue
        in_class = (in_class or token == "[") and token != "]"
        parts.append(token)
    return re.compile("".join(parts))


def _surrogates(match: re.Match[str]) -> str:
    """Java writes a character beyond U+FFFF as two halves."""
    high, low = int(match[1], 16), int(match[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


@functools.cache
def _character_class(name: str) -> str:
    """The inside of a class: POSIX's names are ASCII in Java, the others are Unicode's general categories."""
    posix = {"ASCII": r"\x00-\x7f", "Alnum": "a-zA-Z0-9", "Print": r"\x20-\x7e"}
    if name in posix:
        return posix[name]
    ranges: list[list[int]] = []
    for code in range(0x110000):
        if unicodedata.category(chr(code)).startswith(name):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges)
