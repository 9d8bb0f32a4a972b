"""Explanation of an answer: how much each sentence of the text contributed to it.

Each sentence is read alone, and also left out in turn, and what remains is classified like any other text:

    alone                      = log-odds of the answer's label for the sentence alone
    contribution of a sentence = log-odds of the answer's label with it - log-odds without it

Log-odds are ln(p / (1 - p)) of calibrated probabilities. A contribution above 0 speaks for the label. The method is
leave-one-out (occlusion: Zeiler and Fergus 2014, arXiv:1311.2901; Li et al. 2016, arXiv:1612.08220). The contributions
do not add up to the log-odds of the whole text; `remainder` is the difference. If every sentence says the same, each
contributes next to nothing, because the others are still there, and `alone` shows what each of them says.

Of a text of several windows, a sentence is left out of the windows that have it, and the other windows keep their
results. So the cost grows with the text's length and not with its square. Of a truncated text, only the part that the
model read is explained.

An explanation has a budget of tokens. All sentences alone cost as much as the text once, so this is done first. Then
the sentences are left out, first those that alone speak most strongly for or against the label, until the budget is
used up.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from service.inference.deadline import Deadline
from service.inference.engine import Prediction
from service.inference.pipeline import Answer, AnswerOrError, Pipeline, RequestOptions, Timing, WindowAnswer

MAX_TOKENS = 65_536
"""Largest number of tokens that one explanation may let the model read."""

TIME_SHARE = 0.5
"""Largest share of the time that a request has left for which an explanation may use the model, at its measured rate.
The rest allows for the work of other callers."""

MAX_PARTS = 64
"""Largest number of parts. A longer text is divided into stretches of sentences."""

_END = re.compile(r"""(?<![.!?])[.!?]++["'\u201d\u2019)\]]*+(?=\s)|\n\s*\n|[\u3002\uff01\uff1f]""")
"""The end of a sentence. Each run of full stops is tried once, from its beginning and without backtracking; otherwise
the time would grow with the square of the run's length."""

_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sir|Gen|Sen|Rep|Gov|Lt|Col|No|vs|etc|e\.g|i\.e|[A-Za-z])\.$")
"""A full stop after one of these ends no sentence. A single letter is an initial."""

_LONGEST = len("Prof.")

_TINY = 1e-300
"""Smallest probability that has a logarithm here."""


@dataclass(frozen=True)
class SentenceEffect:
    """The effect of a sentence, or of a stretch of several, on the answer."""

    start: int
    end: int
    """End of the sentence (exclusive), in characters of the text as it was sent."""
    contribution: float | None
    """Its contribution; None if it was not left out, or if no rest was left or could be classified."""
    alone: float | None
    """Log-odds of the label for it alone; None if it was not tried or could not be classified."""


@dataclass(frozen=True)
class Explanation:
    """The log-odds of the answer's label, and the effect of each part of the text on them."""

    label: str
    log_odds: float
    """Log-odds of the label for the whole text."""
    parts: tuple[SentenceEffect, ...]
    complete: bool
    """Every part was left out; otherwise the budget ended before the parts that say least alone."""

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


def log_odds(scores: Iterable[tuple[str, float]], label: str) -> float:
    """Return ln(p / (1 - p)) of a label, kept finite. 1 - p is summed over the other labels, which is exact near 1."""
    of = others = 0.0
    for name, probability in scores:
        if name == label:
            of += probability
        else:
            others += probability
    return math.log(max(of, _TINY)) - math.log(max(others, _TINY))


class WindowReadings:
    """The predictions for the windows of a text, some of which can be replaced.

    They are combined as in `classifier.decoding.combine_windows`: a text's probabilities are the renormalised geometric
    mean of those of its windows, weighted by tokens.

    Args:
        windows: in the order of the text.
    """

    def __init__(self, windows: Sequence[WindowAnswer]) -> None:
        self.windows = windows
        self._starts, self._ends = [w.start for w in windows], [w.end for w in windows]
        self._names = [name for name, _ in windows[0].prediction.scores]
        self._logs = [self._weighted_logs(window.prediction, window.tokens) for window in windows]
        self._sums = [sum(logs) for logs in zip(*self._logs, strict=True)]
        self._tokens = sum(window.tokens for window in windows)

    def having(self, start: int, end: int) -> range:
        """Return the positions of the windows that have characters of the stretch `start`..`end` (exclusive)."""
        return range(bisect_right(self._ends, start), bisect_left(self._starts, end))

    def log_odds(self, label: str, without: range, instead: Sequence[Answer]) -> float | None:
        """Return the log-odds of a label with the windows `without` replaced by others; None if no window is left."""
        tokens = self._tokens - sum(self.windows[i].tokens for i in without) + sum(a.tokens_read for a in instead)
        if not tokens:
            return None
        gone = (self._logs[i] for i in without)
        come = (self._weighted_logs(answer.prediction, answer.tokens_read) for answer in instead)
        sums = [kept - sum(out) for kept, *out in zip(self._sums, *gone, strict=True)]
        sums = [kept + sum(into) for kept, *into in zip(sums, *come, strict=True)]
        highest = max(sums)
        return log_odds(zip(self._names, (math.exp((one - highest) / tokens) for one in sums), strict=True), label)

    def _weighted_logs(self, prediction: Prediction, tokens: int) -> list[float]:
        scores = dict(prediction.scores)
        return [tokens * math.log(max(scores[name], _TINY)) for name in self._names]


def affordable(positions: Iterable[int], costs: Sequence[int], budget: float) -> list[int]:
    """Return the first of `positions` whose costs together are within the budget."""
    taken = []
    for position in positions:
        budget -= costs[position]
        if budget < 0:
            break
        taken.append(position)
    return taken


async def explain(
    pipeline: Pipeline, text: str, answer: Answer, options: RequestOptions, timing: Timing
) -> Explanation:
    """Classify each part of the text alone and the text without it, as bulk work, behind other callers' texts.

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
    rate = pipeline.batcher.load.tokens_per_s
    budget = min(MAX_TOKENS, TIME_SHARE * rate * deadline.left_s) if rate else MAX_TOKENS
    # the request has been accepted, so its further readings wait for room
    options = replace(options, spans=False, priority="bulk", wait_for_room=True)
    label = answer.prediction.label
    whole = log_odds(answer.prediction.scores, label)
    text = text[: answer.spans[-1].end]  # without a sentence, the model would read on behind a truncated text's end
    parts = parts_of(text)

    costs = [math.ceil(answer.tokens_read * (end - start) / len(text)) for start, end in parts]
    order = affordable(range(len(parts)), costs, budget)
    budget -= sum(costs[i] for i in order)
    outcomes = await _classify(pipeline, [text[slice(*parts[i])] for i in order], options, deadline)
    alone = {
        i: log_odds(outcome.prediction.scores, label)
        for i, outcome in zip(order, outcomes, strict=True)
        if isinstance(outcome, Answer)
    }

    readings = WindowReadings(answer.spans)
    having = [readings.having(start, end) for start, end in parts]
    costs = [sum(answer.spans[window].tokens for window in windows) for windows in having]
    order = affordable(sorted(order, key=lambda i: -abs(alone.get(i, 0.0))), costs, budget)
    rests = [_without(text, parts[i], answer.spans[window]) for i in order for window in having[i]]
    outcomes = await _classify(pipeline, rests, options, deadline)
    contributions: dict[int, float] = {}
    remaining = iter(outcomes)
    for i in order:
        found = list(islice(remaining, len(having[i])))
        answers = [outcome for outcome in found if isinstance(outcome, Answer)]
        rest = readings.log_odds(label, having[i], answers)
        if rest is not None and len(answers) == sum(outcome is not None for outcome in found):
            contributions[i] = whole - rest
    effects = (SentenceEffect(*part, contributions.get(i), alone.get(i)) for i, part in enumerate(parts))
    return Explanation(label, whole, tuple(effects), complete=len(order) == len(parts))


def _without(text: str, part: tuple[int, int], window: WindowAnswer) -> str:
    """Return the text of a window without the part."""
    start, end = part
    return text[window.start : max(start, window.start)] + text[min(end, window.end) : window.end]


async def _classify(
    pipeline: Pipeline, texts: Sequence[str], options: RequestOptions, deadline: Deadline
) -> list[AnswerOrError | None]:
    """Classify texts without counting them as traffic. The outcome of a blank text is None."""
    filled = [position for position, text in enumerate(texts) if text.strip()]
    outcomes: list[AnswerOrError | None] = [None] * len(texts)
    for first in range(0, len(filled), pipeline.max_texts):
        positions = filled[first : first + pipeline.max_texts]
        answers = await pipeline.classify(
            [texts[position] for position in positions], options, Timing(), deadline=deadline, counted=False
        )
        for position, answer in zip(positions, answers, strict=True):
            outcomes[position] = answer
    return outcomes
