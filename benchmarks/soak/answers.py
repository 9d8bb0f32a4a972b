"""Whether an answer says what the same texts were answered alone."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "int8": 1e-4, "bfloat16": 5e-2}
"""By precision: how far a probability may move with what else is in the batch. bfloat16 rounds by the size of sums."""

Scores = Mapping[str, float | None]
"""Labels of an answer with their probabilities; None where the answer's form has none."""

Outcome = Scores | str
"""What an answer says of one text; a word is a kind of error."""

Read = Callable[[bytes], Sequence[Outcome]]
"""An answer's body to one outcome a text. Raises what parsing raises."""


@dataclass(frozen=True)
class Known:
    """A text and what it was answered alone."""

    text: str
    scores: Mapping[str, float]

    @property
    def label(self) -> str:
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def margin(self) -> float:
        """Between the two best probabilities."""
        best, second = sorted(self.scores.values(), reverse=True)[:2]
        return best - second


Expected = Known | str
"""The text's answer, or the kind of error that it deserves."""


def problem(body: bytes, read: Read, expected: Sequence[Expected], tolerance: float) -> str | None:
    """What is wrong with an answer, or None."""
    try:
        outcomes = read(body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        return f"unreadable ({type(exc).__name__}: {exc}): {body[:120]!r}"
    if len(outcomes) != len(expected):
        return f"{len(outcomes)} results for {len(expected)} texts"
    for place, (outcome, wanted) in enumerate(zip(outcomes, expected, strict=True)):
        found = _difference(outcome, wanted, tolerance)
        if found:
            return f"text {place}: {found}"
    return None


def _difference(outcome: Outcome, wanted: Expected, tolerance: float) -> str | None:
    if isinstance(wanted, str) or isinstance(outcome, str):
        return None if outcome == wanted else f"{_shown(outcome)} instead of {_shown(wanted)}"
    if not outcome:
        return "no label"
    for label, score in outcome.items():
        if label not in wanted.scores:
            return f"unknown label {label!r}"
        if score is not None and not abs(score - wanted.scores[label]) <= tolerance:  # also true for NaN
            return f"{label} has {score:.6f}, alone {wanted.scores[label]:.6f}"
    label = max(outcome, key=lambda one: outcome[one] or 0.0)
    if label != wanted.label and wanted.margin > 2 * tolerance:
        return f"label {label}, alone {wanted.label}"
    return None


def _shown(one: Outcome | Expected) -> str:
    if isinstance(one, Known):
        return f"an answer ({one.label})"
    return f"the error {one}" if isinstance(one, str) else f"an answer ({', '.join(one)})"


def _listed(scores: Sequence[Mapping[str, Any]]) -> Outcome:
    return {one["label"]: _finite(one["score"]) for one in scores}


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the score {value!r}")
    return number


def _error_or(read: Callable[[Any], Outcome]) -> Callable[[Any], Outcome]:
    """An error object in a text's place is an outcome, too."""
    return lambda value: str(value["kind"]) if isinstance(value, dict) and "kind" in value else read(value)


_result = _error_or(lambda value: _listed(value["scores"]))
_map = _error_or(lambda value: {label: _finite(score) for label, score in value.items()})
_scored = _error_or(lambda value: _listed([value]))
_scores = _error_or(_listed)


def error(body: bytes) -> Sequence[Outcome]:
    """The service's one shape of an error."""
    value = json.loads(body)
    if not {"error", "kind", "request_id"} <= set(value):
        raise ValueError("an error without error, kind or request_id")
    return [str(value["kind"])]


def predict(body: bytes) -> Sequence[Outcome]:
    return [_result(json.loads(body))]


def batch(body: bytes) -> Sequence[Outcome]:
    return [_result(one) for one in json.loads(body)["results"]]


def result_lines(body: bytes) -> Sequence[Outcome]:
    """ndjson from /batch."""
    return [_result(json.loads(line)) for line in body.splitlines()]


def label_map(body: bytes) -> Sequence[Outcome]:
    """/invocations with {"text"}."""
    return [_map(json.loads(body))]


def label_map_list(body: bytes) -> Sequence[Outcome]:
    return [_map(one) for one in json.loads(body)]


def label_map_lines(body: bytes) -> Sequence[Outcome]:
    return [_map(json.loads(line)) for line in body.splitlines()]


def pipeline_one(body: bytes) -> Sequence[Outcome]:
    """Hugging Face's form for one text: its list of scores."""
    return [_scores(json.loads(body))]


def pipeline_many(body: bytes) -> Sequence[Outcome]:
    return [_scores(one) for one in json.loads(body)]


def pipeline_best(body: bytes) -> Sequence[Outcome]:
    """The form without top_k: one object a text."""
    return [_scored(one) for one in json.loads(body)]


def predictions(body: bytes) -> Sequence[Outcome]:
    """TensorFlow Serving's form."""
    return [_scored(one) for one in json.loads(body)["predictions"]]


def rows(body: bytes) -> Sequence[Outcome]:
    """CSV: label, score, error."""
    found: list[Outcome] = []
    for label, score, kind in csv.reader(io.StringIO(body.decode())):
        found.append(kind if kind else {label: _finite(score)})
    return found


def labels(body: bytes) -> Sequence[Outcome]:
    """Plain text: a label a line."""
    return [{line: None} for line in body.decode().split("\n")]


def vllm(names: Sequence[str]) -> Read:
    """/classify; `names` are the model's labels in their order."""
    read = _error_or(lambda value: dict(zip(names, map(_finite, value["probs"]), strict=True)))
    return lambda body: [read(one) for one in json.loads(body)["data"]]


def tensors(names: Sequence[str]) -> Read:
    """/v2/models/.../infer."""

    def read(body: bytes) -> Sequence[Outcome]:
        outputs = {one["name"]: one["data"] for one in json.loads(body)["outputs"]}
        probabilities, width = outputs["probabilities"], len(names)
        if len(probabilities) != width * len(outputs["label"]):
            raise ValueError(f"{len(probabilities)} probabilities for {len(outputs['label'])} texts")
        return [
            dict(zip(names, map(_finite, probabilities[width * i : width * (i + 1)]), strict=True))
            for i in range(len(outputs["label"]))
        ]

    return read
