"""The token budget of a batch."""

from service.telemetry import logger

GOOD_BATCHES = 16
"""Number of good batches after which a reduced budget doubles."""

MIN_BUDGET = 16
"""Computed tokens below which the budget never shrinks."""


class TokenBudget:
    """The computed tokens that the next batch may have. It shrinks when memory runs out, and recovers step by step.

    Args:
        limit: the whole budget.
    """

    def __init__(self, limit: int) -> None:
        self.tokens = limit
        self._limit = limit
        self._good_batches = 0

    def batch_succeeded(self) -> None:
        """Count a good batch. After every `GOOD_BATCHES` of them, double a budget that is below the limit."""
        self._good_batches += 1
        if self._good_batches >= GOOD_BATCHES and self.tokens < self._limit:
            self.tokens = min(2 * self.tokens, self._limit)
            self._good_batches = 0

    def batch_failed(self) -> None:
        """Reset the count of good batches."""
        self._good_batches = 0

    def out_of_memory(self, computed_tokens: int) -> None:
        """Shrink to half of the batch that did not fit."""
        self.tokens = max(MIN_BUDGET, min(self.tokens, computed_tokens) // 2)
        logger.warning("out of memory at %d tokens, the budget is now %d", computed_tokens, self.tokens)
