"""Which sentences carried an answer: each is left out in turn, and read alone, and what is left is classified as any
other text.

    contribution of a sentence = log-odds of the answer's label with it - log-odds without it
    alone                      = log-odds of the answer's label for the sentence alone

in natural logarithms of p / (1 - p), of calibrated probabilities. Above 0 a contribution speaks for the label. This is
leave-one-out (occlusion: Zeiler and Fergus 2014, arXiv:1311.2901; Li et al. 2016, arXiv:1612.08220): exact about this
model and this text, but contributions do not add up to the whole. Where every sentence says the same, each has next to
nothing, because the others are still there; `alone` shows it. `remainder` is what the sum leaves open.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.errors import ServiceError
from service.inference.batcher import deadline_exceeded
from service.inference.engine import Prediction
from service.inference.pipeline import Answer, Pipeline, RequestOptions, Timing

MAX_PARTS = 64
"""In texts of more sentences, stretches of several are left out: each costs a classification of nearly all the text."""

_END = re.compile(r"""(?<![.!?])[.!?]++["'\u201d\u2019)\]]*+(?=\s)|\n\s*\n|[\u3002\uff01\uff1f]""")
"""Each run of full stops is tried once, from its beginning and without going back: else long runs cost their square."""

_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sir|Gen|Sen|Rep|Gov|Lt|Col|No|vs|etc|e\.g|i\.e|[A-Za-z])\.$")
"""A full stop after these ends no sentence; a lone letter is an initial."""

_LONGEST = len("Prof.")


@dataclass(frozen=True)
class SentenceEffect:
    """A sentence, or a stretch of several, and what the answer owes to it."""

    start: int
    end: int
    """The character after its last, in the text as it was sent."""
    contribution: float | None
    """None where nothing is left without it, or the rest could not be classified."""
    alone: float | None
    """None where it could not be classified."""


@dataclass(frozen=True)
class Explanation:
    label: str
    log_odds: float
    """Of the label, for the whole text."""
    parts: tuple[SentenceEffect, ...]

    @property
    def total(self) -> float:
        return sum(part.contribution or 0.0 for part in self.parts)

    @property
    def remainder(self) -> float:
        return self.log_odds - self.total


def sentences(text: str) -> list[tuple[int, int]]:
    """First character and the one after the last of each sentence, by its punctuation; blank ones left out."""
    found: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if match[0] == "." and _ABBREVIATED.search(text, max(start, match.end() - _LONGEST), match.end()):
            continue
        found.append((start, match.end()))
        start = match.end()
    found.append((start, len(text)))
    trimmed = []
    for first, end in found:
        piece = text[first:end]
        if piece.strip():
            trimmed.append((first + len(piece) - len(piece.lstrip()), first + len(piece.rstrip())))
    return trimmed


def parts_of(text: str, most: int = MAX_PARTS) -> list[tuple[int, int]]:
    """At most so many stretches of whole sentences, of about equally many characters if there are more."""
    single = sentences(text)
    if len(single) <= most:
        return single
    share = sum(end - start for start, end in single) / most
    parts: list[tuple[int, int]] = []
    taken = 0.0
    for start, end in single:
        if parts and taken < share * len(parts):
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
        taken += end - start
    return parts


def log_odds(prediction: Prediction, label: str) -> float:
    """ln(p / (1 - p)) of a label, the smallest numbers kept finite. 1 - p is summed, not subtracted."""
    of = others = 0.0
    for name, probability in prediction.scores:
        if name == label:
            of += probability
        else:
            others += probability
    tiny = 1e-30
    return math.log(max(of, tiny)) - math.log(max(others, tiny))


async def explain(
    pipeline: Pipeline, text: str, answer: Answer, work: RequestOptions, allowed_ms: int, timing: Timing
) -> Explanation:
    """Classify the text without each of its parts, and each part, in the bulk lane: others' short texts go first.

    Args:
        pipeline: the model that gave the answer.
        text: as it was sent.
        answer: to it.
        work: how it was classified.
        allowed_ms: milliseconds for the whole request.
        timing: of the request.

    Raises:
        ServiceError: deadline_exceeded, overloaded.
    """
    label = answer.prediction.label
    whole = log_odds(answer.prediction, label)
    parts = parts_of(text)
    texts = [text[:start] + text[end:] for start, end in parts] + [text[start:end] for start, end in parts]
    odds = await _log_odds(pipeline, texts, label, work, allowed_ms, timing)
    found = []
    for (start, end), without, alone in zip(parts, odds, odds[len(parts) :], strict=False):
        found.append(SentenceEffect(start, end, None if without is None else whole - without, alone))
    return Explanation(label, whole, tuple(found))


async def _log_odds(
    pipeline: Pipeline, texts: Sequence[str], label: str, work: RequestOptions, allowed_ms: int, timing: Timing
) -> list[float | None]:
    """Of the label for each text; None for a text that is blank or cannot be classified."""
    asked = [place for place, text in enumerate(texts) if text.strip()]
    odds: list[float | None] = [None] * len(texts)
    for first in range(0, len(asked), pipeline.max_texts):
        some = asked[first : first + pipeline.max_texts]
        left_ms = int(allowed_ms - timing.total_ms)
        if left_ms < 1:
            raise deadline_exceeded(allowed_ms / 1000)
        how = replace(work, timeout_ms=left_ms, spans=False, lane="bulk")
        try:
            outcomes = await pipeline.answers([texts[place] for place in some], how, Timing())
        except ServiceError as exc:
            raise deadline_exceeded(allowed_ms / 1000) if exc.kind == "deadline_exceeded" else exc from None
        for place, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Answer):
                odds[place] = log_odds(outcome.prediction, label)
    return odds
