"""Many texts, a few requests at a time, answers in order: one driver for threads, one for an event loop.

    texts --> chunks --> at most pace.limit requests under way --> outcomes, in the order of the texts

What is held at a time is the chunks under way and their answers, however many texts there are. The first error that is
not a text's own ends everything: it is raised after the outcomes of all texts before it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from client.chunks import Chunker, chunks
from client.flow import Pace
from client.models import Limits, Outcome


def in_threads(
    texts: Iterable[str], limits: Limits, pace: Pace, ask: Callable[[list[str]], list[Outcome]]
) -> Iterator[Outcome]:
    """Outcomes one by one.

    Args:
        texts: read as fast as they are answered.
        limits: of one request.
        pace: how many requests at a time.
        ask: the outcomes of one request's texts; called in threads of a pool.
    """
    pool = ThreadPoolExecutor(pace.most, thread_name_prefix="classify")
    pending: deque[Future[list[Outcome]]] = deque()
    try:
        for chunk in chunks(texts, limits):
            while pending and (len(pending) >= pace.limit or pending[0].done()):
                yield from pending.popleft().result()
            pending.append(pool.submit(ask, chunk))
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def on_loop(
    texts: Iterable[str] | AsyncIterable[str],
    limits: Limits,
    pace: Pace,
    ask: Callable[[list[str]], Awaitable[list[Outcome]]],
) -> AsyncGenerator[list[Outcome]]:
    """Outcomes, those of one request at a time; arguments as `in_threads`, where `ask` is awaited."""
    pending: deque[asyncio.Task[list[Outcome]]] = deque()
    try:
        async for chunk in _chunks(texts, limits):
            while pending and (len(pending) >= pace.limit or pending[0].done()):
                yield await pending.popleft()
            pending.append(asyncio.ensure_future(_awaited(ask(chunk))))
            await asyncio.sleep(0)  # lets it leave before the next texts are read
        while pending:
            yield await pending.popleft()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _awaited(answer: Awaitable[list[Outcome]]) -> list[Outcome]:
    return await answer


async def _chunks(texts: Iterable[str] | AsyncIterable[str], limits: Limits) -> AsyncGenerator[list[str]]:
    if not isinstance(texts, AsyncIterable):
        for chunk in chunks(texts, limits):
            yield chunk
        return
    chunker = Chunker(limits)
    async for text in texts:
        if full := chunker.add(text):
            yield full
    if rest := chunker.rest():
        yield rest
