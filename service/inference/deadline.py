"""The deadline of a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time by which a request must be answered."""

    timeout_s: float
    """Seconds that the whole request is allowed."""
    at: float
    """Time of the event loop's clock at which these seconds are over."""

    @classmethod
    def after(cls, timeout_s: float, spent_s: float = 0.0) -> "Deadline":
        """Return the deadline of a request that is allowed `timeout_s` seconds and has used `spent_s` of them."""
        return cls(timeout_s, asyncio.get_running_loop().time() + max(timeout_s - spent_s, 0.0))

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.at - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the body at the deadline.

        Raises:
            ServiceError: deadline_exceeded.
        """
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError:
            message = f"no answer within {self.timeout_s * 1000:.0f} ms; the work was dropped"
            raise ServiceError("deadline_exceeded", message) from None
