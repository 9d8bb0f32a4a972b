"""Explanation of an answer: how much each sentence of the text contributed to it.

Each sentence is left out in turn, and also read alone, and what remains is classified like any other text:

    contribution of a sentence = log-odds of the answer's label with it - log-odds without it
    alone                      = log-odds of the answer's label for the sentence alone

Log-odds are ln(p / (1 - p)) of calibrated probabilities. A contribution above 0 speaks for the label. The method is
leave-one-out (occlusion: Zeiler and Fergus 2014, arXiv:1311.2901; Li et al. 2016, arXiv:1612.08220). It is exact about
this model and this text, but the contributions do not add up to the log-odds of the whole text; `remainder` is the
difference. If every sentence says the same, each contributes next to nothing, because the others are still there, and
`alone` shows what each of them says. Of a truncated text, only the part that the model read is explained.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from service.inference.deadline import Deadline
from service.inference.engine import Prediction
from service.inference.pipeline import Answer, Pipeline, RequestOptions, Timing

MAX_PARTS = 64
"""Largest number of parts. A longer text is divided into stretches of sentences, because each part costs a
classification of nearly the whole text."""

_END = re.compile(r"""(?<![.!?])[.!?]++["'\u201d\u2019)\]]*+(?=\s)|\n\s*\n|[\u3002\uff01\uff1f]""")
"""The end of a sentence. Each run of full stops is tried once, from its beginning and without backtracking; otherwise
the time would grow with the square of the run's length."""

_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sir|Gen|Sen|Rep|Gov|Lt|Col|No|vs|etc|e\.g|i\.e|[A-Za-z])\.$")
"""A full stop after one of these ends no sentence. A single letter is an initial."""

_LONGEST = len("Prof.")


@dataclass(frozen=True)
class SentenceEffect:
    """The effect of a sentence, or of a stretch of several, on the answer."""

    start: int
    end: int
    """End of the sentence (exclusive), in characters of the text as it was sent."""
    contribution: float | None
    """Its contribution; None if nothing remains without it, or if the rest could not be classified."""
    alone: float | None
    """Log-odds of the label for it alone; None if it could not be classified."""


@dataclass(frozen=True)
class Explanation:
    """The log-odds of the answer's label, and the effect of each part of the text on them."""

    label: str
    log_odds: float
    """Log-odds of the label for the whole text."""
    parts: tuple[SentenceEffect, ...]

    @property
    def total(self) -> float:
        """Sum of the contributions."""
        return sum(part.contribution or 0.0 for part in self.parts)

    @property
    def remainder(self) -> float:
        """The log-odds of the whole text minus the sum of the contributions."""
        return self.log_odds - self.total


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of each sentence, found by its punctuation. Blank sentences are left out."""
    ends: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if match[0] == "." and _ABBREVIATED.search(text, max(start, match.end() - _LONGEST), match.end()):
            continue
        ends.append((start, match.end()))
        start = match.end()
    ends.append((start, len(text)))
    trimmed = []
    for start, end in ends:
        sentence = text[start:end]
        if sentence.strip():
            trimmed.append((start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())))
    return trimmed


def parts_of(text: str, limit: int = MAX_PARTS) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of each part of a text.

    The parts are sentences if there are at most `limit`, else `limit` stretches of sentences of about equal length.
    """
    single = sentences(text)
    if len(single) <= limit:
        return single
    share = sum(end - start for start, end in single) / limit
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
    """Return ln(p / (1 - p)) of a label, kept finite. 1 - p is summed over the other labels, which is exact near 1."""
    of = others = 0.0
    for name, probability in prediction.scores:
        if name == label:
            of += probability
        else:
            others += probability
    tiny = 1e-30
    return math.log(max(of, tiny)) - math.log(max(others, tiny))


async def explain(
    pipeline: Pipeline, text: str, answer: Answer, options: RequestOptions, timing: Timing
) -> Explanation:
    """Classify the text without each of its parts, and each part alone, as bulk work, behind other callers' texts.

    Args:
        pipeline: the pipeline that gave the answer.
        text: the text as it was sent.
        answer: the answer for the whole text, with the spans of its windows.
        options: the options with which the text was classified.
        timing: durations of the request so far. The request's deadline holds for the explanation, too.

    Raises:
        ServiceError: deadline_exceeded, overloaded.
    """
    deadline = pipeline.deadline(options.timeout_ms, spent_s=timing.total_ms / 1000)
    label = answer.prediction.label
    whole = log_odds(answer.prediction, label)
    text = text[: answer.spans[-1].end]  # without a sentence, the model would read on behind a truncated text's end
    parts = parts_of(text)
    texts = [text[:start] + text[end:] for start, end in parts] + [text[start:end] for start, end in parts]
    odds = await _log_odds(pipeline, texts, label, replace(options, spans=False, priority="bulk"), deadline)
    effects = []
    for (start, end), without, alone in zip(parts, odds, odds[len(parts) :], strict=False):
        effects.append(SentenceEffect(start, end, None if without is None else whole - without, alone))
    return Explanation(label, whole, tuple(effects))


async def _log_odds(
    pipeline: Pipeline, texts: Sequence[str], label: str, options: RequestOptions, deadline: Deadline
) -> list[float | None]:
    """Return the log-odds of the label for each text; None for a text that is blank or cannot be classified."""
    filled = [position for position, text in enumerate(texts) if text.strip()]
    odds: list[float | None] = [None] * len(texts)
    for first in range(0, len(filled), pipeline.max_texts):
        positions = filled[first : first + pipeline.max_texts]
        answers = await pipeline.classify(
            [texts[position] for position in positions], options, Timing(), deadline=deadline, counted=False
        )
        for position, answer in zip(positions, answers, strict=True):
            if isinstance(answer, Answer):
                odds[position] = log_odds(answer.prediction, label)
    return odds
