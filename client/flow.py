"""Every operation of the client as a generator that asks for what it cannot do itself: send a call, or wait.

    Client       performs each step in its thread          drive(flow, perform)
    AsyncClient  awaits each step                          drive_async(flow, perform)

So retries, splitting and reading exist once, and run in tests without sockets and without time.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from client.errors import (
    AnswerError,
    BadText,
    ClientError,
    DeadlineExceeded,
    NoAnswer,
    Overloaded,
    TimedOut,
    TooLarge,
)
from client.models import Info, Limits, Outcome, Prediction, Readiness, TextError
from client.transport.retry import Clock, Retry, may_help
from client.transport.wire import Call, Dialect, Options, Reply, failure, raised, read

T = TypeVar("T")

SLACK_S = 5.0
"""Longer than the service's own limit, so that its answer to a missed deadline arrives."""

POLL_S = 0.5
"""Between questions whether the service is ready."""

PASSING = frozenset({"draining", "not_ready", "overloaded", "internal"})
"""Kinds that a text may get among others although nothing is wrong with it: asked again, or the error of all."""


@dataclass(frozen=True)
class Send:
    """Answered by a Reply; NoAnswer or another ClientError is thrown in."""

    call: Call
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    """Answered by None."""

    seconds: float


Flow = Generator[Send | Wait, Reply | None, T]


def drive(flow: Flow[T], perform: Callable[[Send | Wait], Reply | None]) -> T:
    """Run a flow to its end, each step in this thread."""
    try:
        step = next(flow)
        while True:
            try:
                result = perform(step)
            except ClientError as exc:
                step = flow.throw(exc)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


async def drive_async(flow: Flow[T], perform: Callable[[Send | Wait], Awaitable[Reply | None]]) -> T:
    """The same, each step awaited."""
    try:
        step = next(flow)
        while True:
            try:
                result = await perform(step)
            except ClientError as exc:
                step = flow.throw(exc)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value


class Pace:
    """How many requests may be under way: one more after each round that went well, half when the service is full."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"concurrency is {most}, 1 is the least")
        self.most = most
        self._limit = float(min(most, 4))

    @property
    def limit(self) -> int:
        return int(self._limit)

    def answered(self) -> None:
        self._limit = min(self.most, self._limit + 1 / self._limit)

    def refused(self) -> None:
        self._limit = max(1.0, self._limit / 2)


class Core:
    """The operations, as flows.

    Args:
        dialect: how to ask.
        where: the service's URL, for messages.
        timeout_s: for one answer, where no `timeout_ms` is given.
        retry: when to ask again.
        clock: time and chance.
    """

    def __init__(self, dialect: Dialect, where: str, timeout_s: float, retry: Retry, clock: Clock) -> None:
        self.dialect = dialect
        self.where = where
        self._timeout_s = timeout_s
        self._retry = retry
        self._clock = clock

    def predict(self, text: str, options: Options) -> Flow[Prediction]:
        reply = yield from self._ask(self.dialect.predict(text, options))
        return self.dialect.read_prediction(reply, self.where)

    def info(self) -> Flow[Info]:
        reply = yield from self._ask(self.dialect.info())
        return read(Info, reply.body, self.where)

    def metrics(self) -> Flow[str]:
        reply = yield from self._ask(self.dialect.metrics())
        return reply.body.decode("utf-8", "replace")

    def limits(self) -> Flow[Limits]:
        known = self.dialect.limits()
        if known is None:
            known = (yield from self.info()).limits
        return known

    def ready(self, timeout_s: float) -> Flow[float]:
        """Seconds that it took until the service was ready."""
        call = self.dialect.ready()
        began = self._clock.now()
        until = began + timeout_s
        state = "no answer yet"
        while (left := until - self._clock.now()) > 0:
            try:
                reply = yield Send(call, min(SLACK_S, left))
            except NoAnswer as exc:
                if not may_help(exc) and not isinstance(exc, TimedOut):
                    raise
                state = str(exc)
            else:
                assert reply is not None
                if reply.status == 200:
                    read(Readiness, reply.body, self.where)  # another program's 200 is not ready
                    return self._clock.now() - began
                state = self._not_ready(reply)
            yield Wait(min(POLL_S, max(0.0, until - self._clock.now())))
        raise TimedOut(f"{self.where} was not ready within {timeout_s:g} s; at last: {state}")

    def _not_ready(self, reply: Reply) -> str:
        """What to say of a service that is not ready yet; raises if waiting will not help."""
        with suppress(ValidationError):
            if reply.status == 503:
                return f"it says {Readiness.model_validate_json(reply.body).status!r}"
        error = failure(reply, self.where)
        if not may_help(error):
            raise error
        return str(error)

    def batch(self, texts: Sequence[str], options: Options, pace: Pace | None = None) -> Flow[list[Outcome]]:
        """One outcome a text. A request that is too large, or takes too long, is halved until the culprit is alone."""
        try:
            reply = yield from self._ask(self.dialect.batch(texts, options), pace)
        except (TooLarge, DeadlineExceeded, BadText) as exc:
            if len(texts) == 1:
                return [TextError(error=str(exc), kind=exc.kind or "body_too_large", request_id=exc.request_id)]
            half = len(texts) // 2
            first = yield from self.batch(texts[:half], options, pace)
            return first + (yield from self.batch(texts[half:], options, pace))
        outcomes = self.dialect.read_batch(reply, self.where, len(texts))
        if any(_passing(outcome) for outcome in outcomes):
            outcomes = yield from self._again(texts, outcomes, options)
        return outcomes

    def _again(self, texts: Sequence[str], outcomes: list[Outcome], options: Options) -> Flow[list[Outcome]]:
        """Ask once more for texts whose error was not their own, until the retry policy ends it."""
        until = self._clock.now() + self._retry.total_s
        tries = 1
        while places := [i for i, outcome in enumerate(outcomes) if _passing(outcome)]:
            first = outcomes[places[0]]
            assert isinstance(first, TextError)
            yield from self._wait(tries, raised(first, f"{self.where}: {len(places)} of {len(texts)} texts"), until)
            reply = yield from self._ask(self.dialect.batch([texts[i] for i in places], options))
            for i, outcome in zip(places, self.dialect.read_batch(reply, self.where, len(places)), strict=True):
                outcomes[i] = outcome
            tries += 1
        return outcomes

    def _ask(self, call: Call, pace: Pace | None = None) -> Flow[Reply]:
        """The reply of status 200. Raises what the last try ended with."""
        timeout_s = self._timeout_s if call.timeout_ms is None else call.timeout_ms / 1000 + SLACK_S
        until = self._clock.now() + self._retry.total_s
        tries = 0
        while True:
            tries += 1
            error: ClientError
            try:
                reply = yield Send(call, max(0.001, min(timeout_s, until - self._clock.now())))
                assert reply is not None
                if reply.status == 200:
                    if pace is not None:
                        pace.answered()
                    return reply
                error = failure(reply, self.where, len(call.body))
            except NoAnswer as exc:
                error = exc
            if pace is not None and isinstance(error, Overloaded):
                pace.refused()
            yield from self._wait(tries, error, until)

    def _wait(self, tries: int, error: ClientError, until: float) -> Flow[None]:
        """Wait before the next try, or raise the error if there is to be none."""
        left_s = until - self._clock.now()
        wait = self._retry.wait_s(tries, error, left_s, self._clock.draw)
        if wait is None:
            if tries > 1:
                spent = self._retry.total_s - left_s
                error.args = (f"{error.args[0]} (tried {tries} times in {spent:.1f} s)", *error.args[1:])
            elif isinstance(error, AnswerError) and error.retry_after_s is not None:
                error.args = (f"{error.args[0]} (it asks to wait {error.retry_after_s:g} s)", *error.args[1:])
            raise error
        yield Wait(wait)


def _passing(outcome: Outcome) -> bool:
    return isinstance(outcome, TextError) and outcome.kind in PASSING
