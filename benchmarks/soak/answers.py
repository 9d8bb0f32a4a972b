"""Read answers in every form of the service and compare them with the answers to the same texts alone."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "int8": 1e-4, "bfloat16": 5e-2}
"""Largest change of a probability by other texts in the batch, for each precision. bfloat16 rounds large sums more."""

Scores = Mapping[str, float | None]
"""Labels of an answer with their probabilities; None where the form has no probabilities."""

Reading = Scores | str
"""The content of an answer for one text: its scores, or the kind of its error."""

Read = Callable[[bytes], Sequence[Reading]]
"""Reads the body of an answer; raises what parsing raises."""


@dataclass(frozen=True)
class KnownText:
    """A text and its answer when it was sent alone."""

    text: str
    scores: Mapping[str, float]

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def margin(self) -> float:
        """The difference between the two highest probabilities."""
        best, second = sorted(self.scores.values(), reverse=True)[:2]
        return best - second


Expected = KnownText | str
"""A text that must get the same answer as alone, or the kind of error that must take the place of its answer."""


def problem(body: bytes, read: Read, expected: Sequence[Expected], tolerance: float) -> str | None:
    """Return what is wrong with an answer, or None."""
    try:
        readings = read(body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        return f"unreadable ({type(exc).__name__}: {exc}): {body[:120]!r}"
    if len(readings) != len(expected):
        return f"{len(readings)} results for {len(expected)} texts"
    for place, (reading, wanted) in enumerate(zip(readings, expected, strict=True)):
        found = difference(reading, wanted, tolerance)
        if found:
            return f"text {place}: {found}"
    return None


def difference(reading: Reading, wanted: Expected, tolerance: float) -> str | None:
    """Return how one text's answer differs from what it must be, or None."""
    if isinstance(wanted, str) or isinstance(reading, str):
        return None if reading == wanted else f"{_shown(reading)} instead of {_shown(wanted)}"
    if not reading:
        return "no label"
    for label, score in reading.items():
        if label not in wanted.scores:
            return f"unknown label {label!r}"
        if score is not None and not abs(score - wanted.scores[label]) <= tolerance:  # also true for NaN
            return f"{label} has {score:.6f}, alone {wanted.scores[label]:.6f}"
    label = max(reading, key=lambda one: reading[one] or 0.0)
    if label != wanted.label and wanted.margin > 2 * tolerance:
        return f"label {label}, alone {wanted.label}"
    return None


def _shown(one: Reading | Expected) -> str:
    if isinstance(one, KnownText):
        return f"an answer ({one.label})"
    return f"the error {one}" if isinstance(one, str) else f"an answer ({', '.join(one)})"


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the score {value!r}")
    return number


def _objects(value: Iterable[Mapping[str, Any]]) -> Scores:
    return {one["label"]: _finite(one["score"]) for one in value}


def _one_object(value: Mapping[str, Any]) -> Scores:
    return _objects([value])


def _result(value: Mapping[str, Any]) -> Scores:
    return _objects(value["scores"])


def _map(value: Mapping[str, Any]) -> Scores:
    return {label: _finite(score) for label, score in value.items()}


def _reading(one: Callable[[Any], Scores], value: Any) -> Reading:
    """Read one text's answer, which may be an error object."""
    return str(value["kind"]) if isinstance(value, dict) and "kind" in value else one(value)


def _json(one: Callable[[Any], Scores], find: Callable[[Any], Iterable[Any]] = lambda value: [value]) -> Read:
    return lambda body: [_reading(one, value) for value in find(json.loads(body))]


def _json_lines(one: Callable[[Any], Scores]) -> Read:
    return lambda body: [_reading(one, json.loads(line)) for line in body.splitlines()]


predict = _json(_result)
batch = _json(_result, itemgetter("results"))
result_lines = _json_lines(_result)
label_map, label_maps, label_map_lines = _json(_map), _json(_map, iter), _json_lines(_map)
pipeline_one, pipeline_many, pipeline_best = _json(_objects), _json(_objects, iter), _json(_one_object, iter)
"""Hugging Face's forms: all scores of one text, all scores of many, the best label of each of many."""

predictions = _json(_one_object, itemgetter("predictions"))
"""TensorFlow Serving's form."""


def error(body: bytes) -> Sequence[Reading]:
    """Read an error answer of the service."""
    value = json.loads(body)
    if not {"error", "kind", "request_id"} <= set(value):
        raise ValueError("an error without error, kind or request_id")
    return [str(value["kind"])]


def rows(body: bytes) -> Sequence[Reading]:
    """Read CSV: label, score, error."""
    return [kind or {label: _finite(score)} for label, score, kind in csv.reader(io.StringIO(body.decode()))]


def labels(body: bytes) -> Sequence[Reading]:
    """Read plain text: a label on each line."""
    return [{line: None} for line in body.decode().split("\n")]


def vllm(names: Sequence[str]) -> Read:
    """Return the reader of /classify for the model's labels in their order."""
    return _json(lambda value: dict(zip(names, map(_finite, value["probs"]), strict=True)), itemgetter("data"))


def tensors(names: Sequence[str]) -> Read:
    """Return the reader of /v2/models/NAME/infer for the model's labels in their order."""

    def read(body: bytes) -> Sequence[Reading]:
        outputs = {one["name"]: one["data"] for one in json.loads(body)["outputs"]}
        values, width, texts = outputs["probabilities"], len(names), len(outputs["label"])
        if len(values) != width * texts:
            raise ValueError(f"{len(values)} probabilities for {texts} texts")
        parts = (values[width * i : width * (i + 1)] for i in range(texts))
        return [dict(zip(names, map(_finite, part), strict=True)) for part in parts]

    return read
