"""What every server of `/invocations` answers: the service itself and `code/inference.py` in AWS's own images.

The forms are those of the article (`text`), of transformers' text-classification pipeline (`inputs`: with `top_k`,
also null, each input has a list of labels, without it its best label) and of TensorFlow Serving (`instances`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Ranked = Callable[[str], Sequence[tuple[str, float]]]
"""Returns every label of a text with its probability, most probable first."""


@dataclass(frozen=True)
class InvocationCase:
    """A request's JSON body and the JSON answer to it."""

    name: str
    body: Any
    answer: Callable[[Ranked], Any]


def top(ranked: Ranked, text: str, k: int | None = 1) -> list[dict[str, Any]]:
    """Return the k most probable labels of a text, or all of them, as objects."""
    return [{"label": label, "score": score} for label, score in ranked(text)[:k]]


CASES = [
    InvocationCase("text", {"text": "a"}, lambda r: dict(r("a"))),
    InvocationCase("inputs: one text", {"inputs": "a"}, lambda r: top(r, "a")),
    InvocationCase("inputs: one text, no parameter", {"inputs": "a", "parameters": {}}, lambda r: top(r, "a")),
    InvocationCase(
        "inputs: one text, two labels", {"inputs": "a", "parameters": {"top_k": 2}}, lambda r: top(r, "a", 2)
    ),
    InvocationCase(
        "inputs: one text, more labels than there are",
        {"inputs": "a", "parameters": {"top_k": 99}},
        lambda r: top(r, "a", 99),
    ),
    InvocationCase(
        "inputs: one text, all labels", {"inputs": "a", "parameters": {"top_k": None}}, lambda r: top(r, "a", None)
    ),
    InvocationCase("inputs: texts", {"inputs": ["a", "bb"]}, lambda r: [*top(r, "a"), *top(r, "bb")]),
    InvocationCase("inputs: a list of one text", {"inputs": ["a"]}, lambda r: top(r, "a")),
    InvocationCase(
        "inputs: texts, one label",
        {"inputs": ["a", "bb"], "parameters": {"top_k": 1}},
        lambda r: [top(r, "a"), top(r, "bb")],
    ),
    InvocationCase(
        "inputs: texts, all labels",
        {"inputs": ["a", "bb"], "parameters": {"top_k": None}},
        lambda r: [top(r, "a", None), top(r, "bb", None)],
    ),
    InvocationCase(
        "instances: strings",
        {"instances": ["a", "bb"]},
        lambda r: {"predictions": [*top(r, "a"), *top(r, "bb")]},
    ),
    InvocationCase(
        "instances: objects",
        {"instances": [{"text": "a"}, {"text": "bb"}]},
        lambda r: {"predictions": [*top(r, "a"), *top(r, "bb")]},
    ),
]

REFUSED: list[Any] = [
    {},
    {"text": 5},
    {"text": None},
    {"inputs": []},
    {"inputs": 5},
    {"inputs": ["a", 5]},
    {"inputs": "a", "parameters": {"top_k": 0}},
    {"inputs": "a", "parameters": {"top_k": -1}},
    {"inputs": "a", "parameters": {"top_k": "2"}},
    {"inputs": "a", "parameters": {"top_k": True}},
    {"inputs": "a", "parameters": {"top_k": 1.5}},
    {"inputs": "a", "parameters": {"topk": 1}},
    {"inputs": "a", "parameters": [1]},
    {"instances": []},
    {"instances": "a"},
    {"instances": [5]},
    {"instances": [{"text": 5}]},
    {"instances": [{"texts": "a"}]},
    {"instances": [{"text": "a", "more": 1}]},
    {"instances": None},
    {"text": "a", "more": 1},
    [1],
]
"""Bodies of which no part can be answered: the status says so (422 of the service, 400 of AWS's images)."""
