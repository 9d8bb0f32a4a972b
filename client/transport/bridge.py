"""Between an iterator that blocks and an event loop: texts into one, answers out of one."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

AHEAD = 64
"""Texts, or answers, that are held in between."""


class _End(Generic[T]):
    """After the last item."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def from_any(texts: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    """The items of either kind of iterable; one that blocks is read in a thread of its own, `AHEAD` items at most."""
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
        return
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[T | _End[T]] = asyncio.Queue()
    room = threading.Semaphore(AHEAD)
    stopped = threading.Event()

    def give(item: T | _End[T]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(ready.put_nowait, item)

    def read() -> None:
        try:
            for text in texts:
                room.acquire()
                if stopped.is_set():
                    return
                give(text)
            give(_End(None))
        except BaseException as exc:
            give(_End(exc))

    threading.Thread(target=read, name="read texts", daemon=True).start()
    try:
        while not isinstance(item := await ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()


def to_thread(items: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
    """The items of an async iterator, which runs on a loop in a thread of its own, `AHEAD` of the caller at most."""
    ready: queue.Queue[T | _End[T]] = queue.Queue(AHEAD)
    stopped = threading.Event()
    started = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def pump() -> None:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        started.set()
        iterator = items()
        try:
            async for item in iterator:
                try:
                    ready.put_nowait(item)
                except queue.Full:
                    await asyncio.to_thread(_put, ready, item, stopped)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(pump())
        except BaseException as exc:
            error = exc
        started.set()
        _put(ready, _End(error), stopped)

    thread = threading.Thread(target=run, name="stream", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        started.wait()
        for loop, task in running:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _put(ready: "queue.Queue[T | _End[T]]", item: "T | _End[T]", stopped: threading.Event) -> None:
    """Put, unless the caller has gone."""
    while not stopped.is_set():
        with suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return
