"""An event loop whose clock stands still while anything can run, and jumps to the next timer when nothing can.

Hours of waiting pass in milliseconds and always in the same order. If nothing can run and no timer is set, the
scenario would wait for ever, and `Deadlock` is raised.
"""

import asyncio
from collections.abc import Awaitable, Callable


class Deadlock(AssertionError):
    """A task waits for an event that no other task will bring about."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = [timer for timer in self._scheduled if not timer._cancelled]  # type: ignore[attr-defined]
            if not timers and not self._stopping:  # type: ignore[attr-defined]
                raise Deadlock
            if timers:
                self._now = max(self._now, min(timer._when for timer in timers))
        super()._run_once()  # type: ignore[misc]


VIRTUAL_TIME = ("asyncio", {"loop_factory": VirtualTimeLoop})
"""What a module's fixture `anyio_backend` returns, so that its tests run in virtual time."""


def taking(seconds: Callable[[], float]) -> Callable[[Callable[[], object]], Awaitable[object]]:
    """Return what runs a call on the loop after so many virtual seconds, as a thread would."""

    async def call_later(call: Callable[[], object]) -> object:
        await asyncio.sleep(seconds())
        return call()

    return call_later
