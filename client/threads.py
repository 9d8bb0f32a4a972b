"""Between threads and event loops: a loop in the background for `Client`, and blocking calls for a loop.

All threads are daemons: the interpreter's exit waits for none of them, as it would for those of `asyncio.to_thread`.
"""

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


class Worker:
    """A thread that runs blocking calls one after the other for an event loop."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="client worker", daemon=True).start()

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as exc:
                    future.set_exception(exc)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns; if the wait is cancelled, the call goes on unheard."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread after the call that it is at."""
        self._calls.put(None)


async def in_thread(call: Callable[[], T]) -> T:
    """Run one blocking call in a thread of its own."""
    worker = Worker()
    try:
        return await worker.run(call)
    finally:
        worker.close()


async def read_in_thread(items: Iterable[T]) -> AsyncGenerator[T]:
    """Read an iterable that may block, each item when it is asked for, all of them in one thread."""
    worker = Worker()
    try:
        iterator = await worker.run(lambda: iter(items))
        while (item := await worker.run(lambda: next(iterator, _END))) is not _END:
            yield item
    finally:
        worker.close()


class BackgroundLoop:
    """An event loop in a thread, which all clients of this process share; it begins with the first call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may close a client while this thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._of_parent: list[object] = []

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="client loop", daemon=True).start()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def after_fork(self) -> None:
        """Forget the parent's loop, whose thread the child lacks; closing it would close what the parent still uses."""
        self._of_parent.append(self._loop)
        self._lock, self._loop = threading.RLock(), None


_background = BackgroundLoop()
submit = _background.submit
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_background.after_fork)


def wait(future: Future[T]) -> T:
    """Wait for what `submit` started; an interruption (Ctrl-C) cancels it."""
    try:
        return future.result()
    finally:
        future.cancel()


def iterate(items: AsyncGenerator[T]) -> Iterator[T]:
    """Iterate over an async generator that runs on the background loop, each item when it is asked for."""
    turn = asyncio.Lock()  # an interrupted step must have ended before the generator can be closed

    async def step() -> T:
        async with turn:
            return await anext(items, _END)

    async def close() -> None:
        async with turn:
            await items.aclose()

    try:
        while (item := wait(submit(step()))) is not _END:
            yield item
    finally:
        submit(close())  # without waiting: the garbage collector may run this on the loop's own thread
