"""Calibration: how logits become probabilities, and below which probability an answer is unsure.

Both depend on how much of a text was read. One temperature that was fitted on whole articles makes the probabilities of
headlines far too high, because the logits after a few tokens say less than their size promises.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator


class CalibrationPoint(BaseModel):
    """The calibration of texts of which one number of tokens was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(ge=1, description="tokens read")
    temperature: float = Field(gt=0, allow_inf_nan=False, description="logits are divided by this before the softmax")
    unsure_below: float | None = Field(
        None,
        ge=0,
        le=1,
        description="an answer whose highest probability is below this is unsure; null: no threshold is known that "
        "keeps the promised share of wrong answers",
    )


class Calibration(BaseModel):
    """The calibration as a function of the tokens read, given at some numbers of tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: tuple[CalibrationPoint, ...] = Field(
        (CalibrationPoint(tokens=1, temperature=1.0, unsure_below=None),),
        min_length=1,
        description="ascending tokens; between two of them the temperature is interpolated over the logarithm of the "
        "tokens, and the higher threshold counts; beyond them the nearest counts",
    )

    @model_validator(mode="after")
    def _ascending(self) -> "Calibration":
        if any(left.tokens >= right.tokens for left, right in pairwise(self.points)):
            raise ValueError("the tokens of the points must ascend")
        return self

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold is known for any number of tokens. If not, no answer is marked."""
        return any(point.unsure_below is not None for point in self.points)

    def at(self, tokens: int) -> tuple[float, float]:
        """Return temperature and threshold of a text of which `tokens` tokens were read."""
        return float(self.temperature(tokens)), float(self.unsure_below(tokens))

    def temperature(self, tokens_b: ArrayLike) -> NDArray[np.float64]:
        """Return the temperatures (B,) of texts of which `tokens_b` (B,) tokens were read."""
        points = np.log2([point.tokens for point in self.points])
        found: NDArray[np.float64] = np.interp(np.log2(tokens_b), points, [each.temperature for each in self.points])
        return found

    def unsure_below(self, tokens_b: ArrayLike) -> NDArray[np.float64]:
        """Return the thresholds (B,) of texts of which `tokens_b` (B,) tokens were read.

        Where none is known, it is infinite: an answer of which nothing can be promised is unsure.
        """
        tokens = np.array([point.tokens for point in self.points])
        thresholds = np.array([np.inf if each.unsure_below is None else each.unsure_below for each in self.points])
        last = len(tokens) - 1
        above = np.searchsorted(tokens, tokens_b).clip(max=last)
        below = (np.searchsorted(tokens, tokens_b, side="right") - 1).clip(min=0)
        found: NDArray[np.float64] = np.maximum(thresholds[below], thresholds[above])
        return found
