"""The capacity of the service for requests in flight: places, and bytes of bodies and answers.

A request takes a place when its body has been read, and gives it back when its answer is made, so callers who send or
read slowly take none. Streams are read while they are answered; they have places of their own from the beginning.

The bytes of all large bodies and answers have one budget. The first `FREE_BYTES` of each do not count, so that callers
with small requests are not refused beside callers with large ones.
"""

import asyncio

from service.errors import ServiceError
from service.model.lifecycle import ModelLifecycle

FREE_BYTES = 65_536
"""Bytes of each body and answer that do not count. The server holds so many of each connection in any case."""


def counted(size: int) -> int:
    """Return how many of `size` bytes count."""
    return max(0, size - FREE_BYTES)


class Capacity:
    """The places and bytes that are taken. `Holding` has those of one request.

    Args:
        lifecycle: has the limits, and gets the number of requests in flight.
    """

    def __init__(self, lifecycle: ModelLifecycle) -> None:
        self.lifecycle = lifecycle
        self.requests = 0
        self.streams = 0
        self.bytes = 0
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for a turn of the event loop that no other caller of this function has.

        Requests on new connections and large bodies that have been read wait for one, so that a burst of them does not
        hold up the requests of callers who are connected already.
        """
        async with self._turn:
            await asyncio.sleep(0)

    def refusal(self, message: str) -> ServiceError:
        """Return the error for a request that is beyond a limit."""
        return ServiceError("overloaded", message, retry_after_s=self.lifecycle.retry_after_s())


class Holding:
    """The place and the bytes that one request holds.

    Args:
        capacity: what is held of.
        stream: the request is a stream.
    """

    def __init__(self, capacity: Capacity, stream: bool) -> None:
        self._capacity = capacity
        self._stream = stream
        self._placed = False
        self._bytes = 0

    def take_place(self) -> None:
        """Take a place.

        Raises:
            ServiceError: overloaded.
        """
        capacity, settings = self._capacity, self._capacity.lifecycle.settings
        if self._stream:
            if capacity.streams >= settings.max_streams:
                message = f"{capacity.streams} streams are in flight, SERVICE_MAX_STREAMS allows no more"
                raise capacity.refusal(message)
            capacity.streams += 1
        else:
            if capacity.requests >= settings.max_requests:
                message = f"{capacity.requests} requests are in flight, SERVICE_MAX_REQUESTS allows no more"
                raise capacity.refusal(message)
            capacity.requests += 1
        capacity.lifecycle.in_flight += 1
        self._placed = True

    def give_place(self) -> None:
        """Give the place back. Does nothing if the request has none."""
        self._capacity.streams -= self._placed and self._stream
        self._capacity.requests -= self._placed and not self._stream
        self._capacity.lifecycle.in_flight -= self._placed
        self._placed = False

    def hold(self, size: int) -> None:
        """Hold `size` counted bytes from now on, instead of those held before.

        Raises:
            ServiceError: overloaded; what was held before is held on.
        """
        capacity, limit = self._capacity, self._capacity.lifecycle.settings.max_held_bytes
        others = capacity.bytes - self._bytes
        if size > self._bytes and others and others + size > limit:
            message = f"large requests hold {others} bytes, SERVICE_MAX_HELD_BYTES allows {limit}; send fewer at once"
            raise capacity.refusal(message)
        capacity.bytes = others + size
        self._bytes = size

    def release(self) -> None:
        """Give everything back."""
        self.give_place()
        self.hold(0)
