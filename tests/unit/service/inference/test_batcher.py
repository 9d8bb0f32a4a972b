"""The batcher over a fake model, in virtual time: a batch takes one second, unless a test says otherwise."""

import asyncio
import threading
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import ServiceError
from service.inference.admission import FIRST_BATCHES, QueueLimits
from service.inference.batcher import SHORT_TOKENS, Batcher
from service.inference.budget import GOOD_BATCHES
from service.inference.deadline import Deadline
from service.inference.engine import EncodedWindow, Logits
from service.inference.lane import MAX_FAULTS
from service.inference.queue import MAX_PASSED_OVER, Priority, WindowResult
from service.telemetry import Metrics
from tests.support.fake_engine import LABELS, FakeEngine, item
from tests.support.virtual_time import VIRTUAL_TIME, Deadlock, VirtualTimeLoop, taking

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return VIRTUAL_TIME


Request = asyncio.Task[list[WindowResult]]
LIMITS = QueueLimits(max_windows=100, max_tokens=1000, max_batch_tokens=20)
BATCH_S = 1.0


def words(count: int, tail: str = "x") -> str:
    return " ".join([tail] * count)


def many(count: int, name: str, length: int = 20) -> list[str]:
    """Return texts of so many words, no two of them alike."""
    return [words(length, f"{name}{i}") for i in range(count)]


def labels(results: Sequence[WindowResult]) -> list[str]:
    return [r.kind if isinstance(r, ServiceError) else LABELS[list(r).index(10.0)] for r in results]


class Bench:
    """A started batcher and what happened to it."""

    def __init__(self, limits: QueueLimits = LIMITS, lanes: int = 1) -> None:
        self.engine = FakeEngine()
        self.metrics = Metrics()
        self.batcher = Batcher(self.engine, limits, self.metrics, lanes, run_blocking=taking(lambda: BATCH_S))
        self.batcher.start()

    @property
    def batches(self) -> list[list[str]]:
        return self.engine.batches

    @property
    def lengths(self) -> list[list[int]]:
        return [[len(text.split()) for text in batch] for batch in self.batches]

    async def submit(
        self, *texts: str, timeout_s: float = 1e6, spent_s: float = 0.0, **options: Any
    ) -> list[WindowResult]:
        deadline = Deadline.after(timeout_s, spent_s)
        return await self.batcher.submit([item(text) for text in texts], deadline, **options)

    def later(self, *texts: str, **options: Any) -> Request:
        return asyncio.ensure_future(self.submit(*texts, **options))

    async def busy(self) -> Request:
        """Put something into the model, so that what follows has to queue."""
        task = self.later("busy")
        await asyncio.sleep(BATCH_S / 2)
        return task

    def dropped(self, reason: str) -> float:
        return float(self.metrics.dropped.labels(reason)._value.get())

    def empty(self) -> bool:
        return (self.batcher.load.windows, self.batcher.load.tokens, self.batcher._queue.empty) == (0, 0, True)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
async def busy(bench: Bench) -> Request:
    return await bench.busy()


async def answered(*tasks: Request) -> list[list[WindowResult]]:
    return await asyncio.gather(*tasks)


async def refused(request: Awaitable[object], kind: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await request
    assert caught.value.kind == kind
    return caught.value


class TestBatches:
    async def test_an_idle_batcher_starts_at_once_and_answers_in_order(self, bench: Bench) -> None:
        assert labels(await bench.submit("a", "bb", "ccc")) == ["politics", "sport", "business"]
        assert bench.batches == [["a", "bb", "ccc"]]
        assert asyncio.get_running_loop().time() == BATCH_S
        assert bench.empty()

    async def test_what_arrives_while_the_model_is_busy_shares_the_next_batch(self, bench: Bench) -> None:
        await answered(await bench.busy(), bench.later("b"), bench.later("c d"), bench.later("e"))
        assert bench.batches == [["busy"], ["b", "c d", "e"]]

    async def test_what_is_computed_counts_not_what_is_read(self, bench: Bench) -> None:
        padded = [EncodedWindow(1, f"p{i}", computed_tokens=9, key=i) for i in range(5)]
        await bench.batcher.submit(padded, Deadline.after(100))
        assert list(map(len, bench.batches)) == [2, 2, 1]
        assert bench.metrics.padding_tokens._value.get() == 40


class TestPriorities:
    async def test_interactive_goes_first(self, bench: Bench) -> None:
        bulk = bench.later(*many(3, "bulk"), priority="bulk")
        await asyncio.sleep(0.1)
        first = await bench.busy()  # the first of bulk is in the model, "busy" waits
        late = bench.later(words(20, "late"))
        await answered(bulk, first, late)
        assert [batch[0].split()[0] for batch in bench.batches] == ["bulk0", "busy", "late", "bulk1", "bulk2"]

    async def test_bulk_does_not_starve(self, bench: Bench, busy: Request) -> None:
        """Under more interactive work than the model can do, one batch of five is led by bulk."""
        flood = [bench.later(words(20, f"i{n}")) for n in range(30)]
        bulk = bench.later(*many(4, "b"), priority="bulk")
        await answered(busy, *flood, bulk)
        led = [batch[0][0] for batch in bench.batches[1:]]
        assert led[:20] == [*"iiii", "b"] * 4
        assert led.index("b") == MAX_PASSED_OVER

    async def test_short_text_does_not_wait_for_the_longer_ones_before_it(self, bench: Bench, busy: Request) -> None:
        flood = [bench.later(words(SHORT_TOKENS + 1, f"long{n}")) for n in range(8)]
        short = bench.later(words(SHORT_TOKENS, "short"))
        await answered(busy, short, *flood)
        assert [batch[0].split()[0] for batch in bench.batches[:3]] == ["busy", "short", "long0"]

    async def test_longer_texts_do_not_starve(self, bench: Bench, busy: Request) -> None:
        shorts = [bench.later(words(20, f"s{n}")) for n in range(20)]
        long = bench.later(words(SHORT_TOKENS + 1, "long"))
        await answered(busy, *shorts, long)
        assert [batch[0][0] for batch in bench.batches[1:]].index("l") == MAX_PASSED_OVER

    async def test_short_text_waits_for_two_bulk_batches_at_most(self, bench: Bench) -> None:
        bulk = bench.later(*many(20, "b"), priority="bulk")
        loop, worst = asyncio.get_running_loop(), 0.0
        for n in range(12):
            await asyncio.sleep(0.37)
            asked = loop.time()
            await bench.submit(f"short{n}")
            worst = max(worst, loop.time() - asked)
        assert worst <= 3 * BATCH_S
        await bulk


class TestLanes:
    async def test_idle_lanes_share_the_windows_of_a_request(self) -> None:
        bench = Bench(lanes=2)
        assert len(await bench.submit(*many(4, "a", 5))) == 4
        assert list(map(len, bench.batches)) == [2, 2]
        assert asyncio.get_running_loop().time() == BATCH_S and bench.empty()

    async def test_a_lane_goes_on_while_another_is_busy(self) -> None:
        bench = Bench(lanes=2)
        busy = await bench.busy()
        await answered(busy, bench.later("b"), bench.later("c"))
        assert bench.batches == [["busy"], ["b", "c"]]
        assert asyncio.get_running_loop().time() == 1.5 * BATCH_S

    async def test_equal_texts_are_computed_in_one_lane(self) -> None:
        bench = Bench(lanes=2)
        await answered(bench.later("same"), bench.later("same"))
        assert bench.batches == [["same"]]

    async def test_a_failing_batch_does_not_hold_up_the_other_lane(self) -> None:
        bench = Bench(lanes=2)
        failing, other = bench.later("poison"), bench.later("b")
        assert labels(await other) == ["politics"]
        assert asyncio.get_running_loop().time() == BATCH_S
        assert labels(await failing) == ["inference_failed"]
        assert bench.batcher.healthy and bench.empty()

    async def test_memory_that_runs_out_in_one_lane_shrinks_the_batches_of_all(self) -> None:
        bench = Bench(QueueLimits(1000, 10_000, 64), lanes=2)
        await bench.submit(words(64, "greedy"))
        await bench.submit(*many(4, "a", 30))
        assert list(map(len, bench.batches[1:])) == [1, 1, 1, 1]

    async def test_a_stuck_lane_makes_the_service_unhealthy_and_the_other_goes_on(self) -> None:
        bench = Bench(replace(LIMITS, stuck_s=0.4), lanes=2)
        stuck = await bench.busy()
        assert not bench.batcher.healthy
        assert labels(await bench.submit("b")) == ["politics"]
        await stuck

    async def test_a_lane_that_stays_down_takes_only_its_own_batch_along(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench(lanes=2)
        lost = await bench.busy()
        [lane] = [lane for lane in bench.batcher.lanes if lane.batch]

        def fault(*_: object) -> None:
            raise RuntimeError("a fault of the lane itself")

        monkeypatch.setattr(lane, "_part_succeeded", fault)
        other = bench.later("b")
        assert (labels(await lost), labels(await other)) == (["internal"], ["politics"])
        outcomes = [labels(await bench.submit(*many(2, f"{n}", 1))) for n in range(MAX_FAULTS)]
        assert all("internal" in outcome and len(set(outcome)) == 2 for outcome in outcomes[: MAX_FAULTS - 1])
        assert lane.dead and not bench.batcher.healthy
        assert "internal" not in outcomes[-1] and bench.empty()

    async def test_the_rate_is_that_of_all_lanes(self) -> None:
        bench = Bench(lanes=2)
        for n in range(FIRST_BATCHES):
            await bench.submit(*many(2, f"first{n}"))
        assert bench.batcher.load.tokens_per_s == pytest.approx(40.0)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # real threads
    async def test_every_lane_has_a_thread_of_its_own_that_is_prepared(self) -> None:
        engine, prepared = FakeEngine(), set[int]()
        engine.prepare_thread = lambda: prepared.add(threading.get_ident())  # type: ignore[method-assign]
        engine.gate.clear()
        batcher = Batcher(engine, LIMITS, Metrics(), lanes=3)
        batcher.start()
        tasks = [
            asyncio.ensure_future(batcher.submit([item(text)], Deadline.after(100))) for text in ("a", "bb", "ccc")
        ]
        for _ in tasks:
            await asyncio.to_thread(engine.entered.acquire, timeout=30)
        engine.gate.set()
        await asyncio.gather(*tasks)
        await batcher.close()
        assert len(prepared) == 3 and sorted(engine.batches) == [["a"], ["bb"], ["ccc"]]


class TestAdmission:
    async def test_request_is_admitted_whole_or_refused_whole(self, bench: Bench) -> None:
        first = [bench.later(*many(20, name, 1)) for name in "abcd"]
        await asyncio.sleep(0)
        error = await refused(bench.submit(*many(21, "e", 1)), "overloaded")
        assert error.status == 429 and error.retry_after_s is not None
        assert bench.batcher.load.windows == 80
        last = bench.later(*many(20, "e", 1))
        assert [len(r) for r in await answered(*first, last)] == [20] * 5

    async def test_retry_after_is_the_time_until_all_is_done(self, bench: Bench) -> None:
        assert bench.batcher.retry_after_s() == 1.0
        await known_rate(bench)
        tasks = [bench.later(words(20, f"t{i}")) for i in range(3)]
        await asyncio.sleep(0)
        assert bench.batcher.retry_after_s() == pytest.approx(3.0)
        await answered(*tasks)


async def known_rate(bench: Bench) -> None:
    """Let the batcher learn its rate of 20 tokens a second."""
    for n in range(FIRST_BATCHES):
        await bench.submit(words(20, f"first{n}"))


class TestOverload:
    @pytest.mark.parametrize("priority", ["interactive", "bulk"])
    async def test_ten_times_too_much_is_refused_and_the_rest_answered_in_time(self, priority: Priority) -> None:
        """Texts of two windows, so that half of an answer can be computed in vain."""
        bench = Bench(QueueLimits(max_windows=10**6, max_tokens=10**6, max_batch_tokens=20))
        outcomes: list[str] = []

        async def ask(n: int) -> None:
            try:
                await bench.submit(words(10, f"a{n}"), words(10, f"b{n}"), timeout_s=10.0, priority=priority)
            except ServiceError as exc:
                assert exc.kind != "overloaded" or exc.retry_after_s is not None
                outcomes.append(exc.kind)
            else:
                outcomes.append("answered")

        asked = []
        for n in range(1000):  # 10 a second for 100 seconds, one of which can be answered
            asked.append(asyncio.ensure_future(ask(n)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*asked)
        assert outcomes.count("answered") >= 90
        assert outcomes.count("deadline_exceeded") <= 10 * FIRST_BATCHES, "before the rate was known"

    async def test_single_texts_are_not_refused_for_a_long_bulk_queue(self, bench: Bench) -> None:
        await known_rate(bench)
        bulk = bench.later(*many(40, "b"), priority="bulk")
        await asyncio.sleep(0.5)
        assert labels(await bench.submit("short", timeout_s=5.0)) == [LABELS[5 % 3]]
        await refused(bench.submit("short too", timeout_s=5.0, priority="bulk"), "overloaded")
        await bulk

    async def test_an_empty_batcher_tries_whatever_it_takes(self) -> None:
        bench = Bench(replace(LIMITS, tokens_per_s=20.0))
        await refused(bench.submit(*many(50, "b"), timeout_s=5.0), "deadline_exceeded")

    async def test_a_low_estimate_recovers_by_small_batches(self) -> None:
        bench = Bench(replace(LIMITS, max_batch_tokens=1000, tokens_per_s=0.5))
        for n in range(20):
            await bench.submit(words(20, f"w{n}"))
        assert bench.batcher.load.tokens_per_s == pytest.approx(20.0, rel=0.05)

    async def test_one_slow_first_batch_is_no_reason_to_refuse(self) -> None:
        """Found on a busy machine: the first batch took a second, and the queue behind it was refused."""
        bench = Bench(replace(LIMITS, max_batch_tokens=20))
        for n in range(FIRST_BATCHES - 1):
            await bench.submit(words(20, f"w{n}"))
            assert bench.batcher.load.tokens_per_s == bench.batcher.retry_after_s() - 1 == 0
        await bench.submit(words(20, "last"))
        assert bench.batcher.load.tokens_per_s == pytest.approx(20.0, rel=0.05)


class TestShares:
    """A request fills at most 80 of 1,000 tokens and 25 of 100 windows of the queue at a time."""

    async def test_a_request_of_any_size_leaves_room_for_all_others(self, bench: Bench, busy: Request) -> None:
        large = bench.later(*many(200, "large"), priority="bulk")
        await asyncio.sleep(0)
        others = [bench.later(*many(2, f"o{n}"), priority="bulk") for n in range(5)]
        others += [bench.later(f"i{n}") for n in range(20)]
        results = await answered(*others)
        assert all("overloaded" not in labels(result) for result in results)
        assert asyncio.get_running_loop().time() <= 20 * BATCH_S, "the large request takes 200 batches"
        await answered(busy, large)
        assert bench.empty()

    async def test_large_requests_take_turns(self, bench: Bench) -> None:
        loop, ended = asyncio.get_running_loop(), list[float]()
        large = [bench.later(*many(50, name), priority="bulk") for name in "abc"]
        for request in large:
            request.add_done_callback(lambda _: ended.append(loop.time()))
        await answered(*large)
        assert min(ended) > 150 - 3 * 80 / 20 and max(ended) == 150 * BATCH_S

    async def test_a_large_text_does_not_hold_up_short_ones(self, bench: Bench) -> None:
        large = bench.later(*many(100, "large"))
        loop, worst = asyncio.get_running_loop(), 0.0
        for n in range(12):
            await asyncio.sleep(0.37)
            asked = loop.time()
            await bench.submit(f"short{n}")
            worst = max(worst, loop.time() - asked)
        assert worst <= 3 * BATCH_S
        await large

    async def test_a_large_request_alone_keeps_all_lanes_busy(self) -> None:
        bench = Bench(lanes=2)
        await bench.submit(*many(100, "large"), priority="bulk")
        assert asyncio.get_running_loop().time() == 50 * BATCH_S and len(bench.batches) == 100

    async def test_equal_windows_of_a_large_request_are_computed_once(self, bench: Bench) -> None:
        results = await bench.submit(*(words(20, f"w{n % 30}") for n in range(90)))
        assert labels(results) == [LABELS[len(words(20, f"w{n % 30}")) % 3] for n in range(90)]
        assert len(bench.batches) == 30
        assert bench.metrics.shared.labels("in_flight")._value.get() == 60

    async def test_all_that_a_departed_caller_had_waiting_is_dropped(self, bench: Bench) -> None:
        large = bench.later(*many(100, "large"), priority="bulk")
        await asyncio.sleep(BATCH_S / 2)
        assert (bench.batcher.load.windows, bench.batcher.load.tokens) == (100, 2000)
        large.cancel()
        await bench.submit("b")
        assert len(bench.batches) == 2 and bench.dropped("departed") == 99 and bench.empty()

    async def test_what_has_not_entered_the_queue_ends_with_the_batcher(self, bench: Bench) -> None:
        large = bench.later(*many(100, "large"), priority="bulk")
        await asyncio.sleep(BATCH_S / 2)
        bench.batcher.give_up()
        await refused(large, "draining")
        await asyncio.sleep(2 * BATCH_S)
        assert len(bench.batches) == 1 and bench.empty()


class TestSharing:
    async def test_equal_texts_in_flight_are_computed_once(self, bench: Bench, busy: Request) -> None:
        same = [bench.later("same", "other", "same") for _ in range(5)]
        results = await answered(busy, *same)
        assert bench.batches == [["busy"], ["same", "other"]]
        assert all(labels(r) == labels(results[1]) for r in results[1:])
        assert bench.empty()

    async def test_equal_text_joins_one_that_is_in_the_model(self, bench: Bench) -> None:
        await answered(await bench.busy(), bench.later("busy"))
        assert bench.batches == [["busy"]]

    async def test_one_who_leaves_does_not_take_the_answer_with_him(self, bench: Bench, busy: Request) -> None:
        leaves, stays = bench.later("same"), bench.later("same")
        await asyncio.sleep(0)
        leaves.cancel()
        assert labels((await answered(busy, stays))[1]) == ["politics"]
        assert bench.dropped("departed") == 0 and bench.empty()

    async def test_interactive_caller_takes_equal_bulk_work_along(self, bench: Bench, busy: Request) -> None:
        bulk = bench.later(*many(4, "b"), priority="bulk")
        await asyncio.sleep(0)
        now = bench.later(words(20, "b3"))
        await answered(busy, bulk, now)
        assert bench.batches[1] == [words(20, "b3")]
        assert len(bench.batches) == 5

    async def test_windows_without_a_key_are_never_shared(self, bench: Bench) -> None:
        await bench.batcher.submit([EncodedWindow(1, "a", 1), EncodedWindow(1, "a", 1)], Deadline.after(100))
        assert bench.batches == [["a", "a"]]

    async def test_cache_answers_at_once_and_is_bounded(self) -> None:
        bench = Bench(QueueLimits(100, 1000, 20, cache_windows=2))
        for text in ("a", "b", "a", "c", "a", "b"):  # a is used again before c comes, so that b is let go
            await bench.submit(text)
        assert bench.batches == [["a"], ["b"], ["c"], ["b"]]
        assert asyncio.get_running_loop().time() == 4 * BATCH_S
        assert bench.empty()

    async def test_failures_and_nan_are_not_cached(self) -> None:
        bench = Bench(QueueLimits(100, 1000, 20, cache_windows=9))
        for text in ("nan", "nan", "poison", "poison"):
            await bench.submit(text)
        assert bench.batches == [["nan"], ["nan"], ["poison"], ["poison"]]


class TestLeaving:
    async def test_expired_caller_is_told_at_his_deadline_and_his_work_dropped(
        self, bench: Bench, busy: Request
    ) -> None:
        error = await refused(bench.submit("late", timeout_s=0.3), "deadline_exceeded")
        assert error.status == 504 and "within 300 ms" in error.message
        assert asyncio.get_running_loop().time() == pytest.approx(0.8)
        await busy
        await bench.submit("b")
        assert bench.batches == [["busy"], ["b"]]
        assert bench.dropped("deadline") == 1 and bench.empty()

    async def test_time_spent_before_counts(self, bench: Bench) -> None:
        error = await refused(bench.submit("a", timeout_s=2.0, spent_s=2.0), "deadline_exceeded")
        assert "within 2000 ms" in error.message

    async def test_callers_that_gave_up_take_nobodys_place(self, bench: Bench, busy: Request) -> None:
        await refused(bench.submit(*many(99, "l", 1), timeout_s=0.1), "deadline_exceeded")
        assert (bench.batcher.load.windows, bench.batcher.load.tokens) == (1, 1)
        await answered(busy, bench.later(*many(99, "n", 1)))

    async def test_departed_caller_costs_nothing(self, bench: Bench, busy: Request) -> None:
        gone = bench.later("gone")
        await asyncio.sleep(0)
        gone.cancel()
        await answered(busy, bench.later("b"))
        assert bench.batches == [["busy"], ["b"]]
        assert bench.dropped("departed") == 1 and bench.empty()

    async def test_halves_that_nobody_wants_any_more_are_not_run(self, bench: Bench, busy: Request) -> None:
        poison, gone = bench.later("poison"), bench.later("gone", timeout_s=1.2)
        results = await asyncio.gather(busy, poison, gone, return_exceptions=True)
        assert isinstance(results[2], ServiceError)
        assert bench.batches == [["busy"], ["poison", "gone"], ["poison"]] and bench.empty()


class TestFailures:
    async def test_culprits_are_found_and_the_others_answered(self) -> None:
        """The issue's case: 32 texts, one raises, one is not a number, one runs out of memory."""
        bench = Bench(QueueLimits(100, 1000, 64))
        for culprit, kind in (("poison", "inference_failed"), ("greedy", "inference_failed"), ("nan", "nan")):
            texts = [f"t{'x' * i}" for i in range(32)]
            texts[11] = culprit
            results = await bench.submit(*texts)
            for place, (text, result) in enumerate(zip(texts, results, strict=True)):
                if place == 11 and kind == "nan":
                    assert not isinstance(result, ServiceError) and result[0] != result[0]
                else:
                    assert labels([result]) == [kind if place == 11 else LABELS[len(text) % 3]]
            assert bench.batcher.healthy and bench.empty()

    async def test_budget_shrinks_when_memory_runs_out_and_recovers(self) -> None:
        bench = Bench(QueueLimits(1000, 10_000, 512))
        [result] = await bench.submit(words(512, "greedy"))
        assert isinstance(result, ServiceError) and "not enough memory for 512 tokens" in result.message
        assert bench.batcher.budget.tokens == 256
        await bench.submit(*(words(100, f"w{i}") for i in range(6)))
        assert [len(batch) for batch in bench.batches[1:]] == [2, 2, 2]
        for good in "tu":
            for i in range(GOOD_BATCHES):
                await bench.submit(f"{good}{i}")
            assert bench.batcher.budget.tokens == 512

    async def test_broken_model_turns_unhealthy_and_recovers(self, bench: Bench) -> None:
        bench.engine.broken = True
        assert labels(await bench.submit("a", "b")) == ["inference_failed"] * 2
        assert not await bench.batcher.recheck() and not bench.batcher.healthy
        bench.engine.broken = False
        assert all(await asyncio.gather(*(bench.batcher.recheck() for _ in range(5))))
        # a and b together, a, b, the probe that the first recheck joins, and one for five rechecks
        assert asyncio.get_running_loop().time() == 5 * BATCH_S
        assert labels(await bench.submit("a")) == ["politics"]

    async def test_a_text_on_which_the_model_fails_does_not_make_it_unhealthy(self, bench: Bench) -> None:
        """Found by a soak: one readiness probe of 20,000 requests said 503 beside a batch with such a text."""
        task = bench.later("poison", "a", "b", "c")
        healthy = []
        while not task.done():
            healthy.append(await bench.batcher.recheck())
            await asyncio.sleep(BATCH_S / 4)
        assert labels(await task) == ["inference_failed", "politics", "politics", "politics"]
        assert len(healthy) > 8 and all(healthy)

    async def test_recheck_does_not_wait_for_a_batch(self, bench: Bench) -> None:
        bench.engine.broken = True
        await bench.submit("a")
        await asyncio.sleep(2 * BATCH_S)  # the probe fails, too
        bench.engine.broken = False
        task = bench.later("b")
        await asyncio.sleep(0.1)
        before = asyncio.get_running_loop().time()
        assert not await bench.batcher.recheck()
        assert asyncio.get_running_loop().time() == before
        await task
        assert bench.batcher.healthy

    async def test_engine_that_loses_a_row_fails_loudly(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench.engine, "infer", lambda items: [])
        assert labels(await bench.submit("a")) == ["inference_failed"]

    async def test_stuck_model_is_not_healthy(self) -> None:
        bench = Bench(QueueLimits(100, 1000, 20, stuck_s=0.5))
        task = bench.later("a")
        await asyncio.sleep(0.4)
        healthy = [bench.batcher.healthy]
        await asyncio.sleep(0.2)
        healthy.append(bench.batcher.healthy)
        await task
        assert [*healthy, bench.batcher.healthy] == [True, False, True]

    async def test_lane_that_fails_is_started_again_but_not_for_ever(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = bench.batcher.next_batch

        def fault() -> list[Any]:
            raise RuntimeError("a fault of the batcher itself")

        for _ in range(MAX_FAULTS - 1):
            monkeypatch.setattr(bench.batcher, "next_batch", fault)
            await refused(bench.submit("a"), "internal")
            assert (bench.empty(), bench.batcher.healthy) == (True, False)
            monkeypatch.setattr(bench.batcher, "next_batch", real)
            assert await bench.batcher.recheck()
        assert labels(await bench.submit("a")) == ["politics"]  # a good batch: faults are counted anew
        monkeypatch.setattr(bench.batcher, "next_batch", fault)
        for _ in range(MAX_FAULTS):
            await refused(bench.submit("a"), "internal")
        await refused(bench.submit("b"), "not_ready")
        assert (bench.batcher.healthy, await bench.batcher.recheck()) == (False, False)


class TestClosing:
    async def test_a_batch_that_was_given_up_ends_without_a_trace(self, bench: Bench) -> None:
        task = await bench.busy()
        bench.batcher.give_up()
        await refused(task, "draining")
        await asyncio.sleep(2 * BATCH_S)
        assert bench.batches == [["busy"]]
        assert (bench.empty(), bench.batcher.healthy) == (True, True)

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])  # real time: closing waits for a real thread
    async def test_closing_tells_everyone_who_waits(self, bench: Bench) -> None:
        tasks = [await bench.busy(), bench.later("b")]
        await asyncio.sleep(0)
        await bench.batcher.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r.kind for r in results if isinstance(r, ServiceError)] == ["draining", "draining"]
        await refused(bench.submit("c"), "draining")
        assert bench.empty()


async def test_a_request_waits_for_room_if_it_asks_to() -> None:
    bench = Bench(replace(LIMITS, max_windows=8))
    busy = await bench.busy()
    others = [bench.later(*many(1, name, 1)) for name in "abcdefg"]
    waiting = bench.later("one", "two", wait_for_room=True)
    await asyncio.sleep(0)
    await refused(bench.submit("three"), "overloaded")
    await answered(busy, *others, waiting)
    assert bench.batches == [["busy"], [f"{name}0" for name in "abcdefg"], ["one", "two"]]
    assert bench.empty()


async def test_patience_ends_with_the_time_allowed() -> None:
    bench = Bench(replace(LIMITS, max_windows=1))
    busy = await bench.busy()
    await refused(bench.submit("one", wait_for_room=True, timeout_s=BATCH_S / 4), "deadline_exceeded")
    await answered(busy)
    assert bench.batches == [["busy"]] and bench.empty()


async def test_patience_does_not_outlive_the_batcher() -> None:
    bench = Bench(replace(LIMITS, max_windows=1))
    busy = await bench.busy()
    waiting = bench.later("one", wait_for_room=True)
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(bench.batcher.close())
    await refused(waiting, "draining")
    await asyncio.gather(busy, closing, return_exceptions=True)


def test_the_clock_finds_a_deadlock() -> None:
    loop = VirtualTimeLoop()
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())
    loop.close()


TEXTS = ["a", "bb c", "d e f", "nan", "poison", "greedy", words(7), words(25), words(13, "y")]


class Machine(RuleBasedStateMachine):
    """Random arrivals, departures, deadlines and failures. However they fall: one answer each, of the right kind and in
    order, nobody waits for ever, the budget is kept, and the counts come back to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.open: list[tuple[list[str], float, float, Request]] = []
        self.submitted = 0

    def step(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    @initialize(
        cached=st.booleans(),
        budget=st.integers(4, 30),
        seconds=st.sampled_from([0.1, 1.0, 3.0]),
        lanes=st.integers(1, 3),
    )
    def start(self, cached: bool, budget: int, seconds: float, lanes: int) -> None:
        self.limits = QueueLimits(max_windows=30, max_tokens=120, max_batch_tokens=budget, cache_windows=3 * cached)
        self.engine = FakeEngine()
        self.seconds = seconds

        async def started() -> Batcher:
            batcher = Batcher(self.engine, self.limits, Metrics(), lanes, run_blocking=taking(lambda: self.seconds))
            infer = self.engine.infer

            def within_budget(windows: Sequence[EncodedWindow]) -> Sequence[Logits]:
                assert len(windows) == 1 or sum(w.computed_tokens for w in windows) <= self.limits.max_batch_tokens
                return infer(windows)

            self.engine.infer = within_budget  # type: ignore[method-assign]
            batcher.start()
            return batcher

        self.batcher = self.step(started())

    @rule(
        texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8),
        priority=st.sampled_from(["interactive", "bulk"]),
        timeout_s=st.sampled_from([0.0, 0.5, 2.0, 1e6]),
    )
    def submit(self, texts: list[str], priority: Priority, timeout_s: float) -> None:
        async def go() -> Request:
            request = self.batcher.submit([item(t) for t in texts], Deadline.after(timeout_s), priority)
            task: Request = asyncio.ensure_future(request)
            await asyncio.sleep(0)
            return task

        self.open.append((texts, self.loop.time(), timeout_s, self.step(go())))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def depart(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.open) - 1))
        task = self.open.pop(place)[-1]

        async def go() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.step(go())

    @rule(seconds=st.sampled_from([0.05, 0.7, 5.0]))
    def wait(self, seconds: float) -> None:
        self.step(asyncio.sleep(seconds))
        self.look_at_answers()

    @rule()
    def model_breaks_or_is_mended(self) -> None:
        self.engine.broken = not self.engine.broken

    @invariant()
    def counts_are_those_of_who_waits(self) -> None:
        if not hasattr(self, "batcher"):
            return
        waiting = [texts for texts, _, _, task in self.open if not task.done()]
        assert 0 <= self.batcher.load.windows <= sum(map(len, waiting))
        assert self.batcher.load.tokens >= 0

    def look_at_answers(self) -> None:
        still = []
        for texts, since, timeout_s, task in self.open:
            if not task.done():
                assert self.loop.time() <= since + timeout_s + 1e-6, "nobody waits beyond the deadline"
                still.append((texts, since, timeout_s, task))
                continue
            error = task.exception()
            if error is not None:
                assert isinstance(error, ServiceError) and error.kind in ("overloaded", "deadline_exceeded")
                continue
            assert len(task.result()) == len(texts)
            for text, result in zip(texts, task.result(), strict=True):
                if isinstance(result, ServiceError):
                    assert result.kind == "inference_failed"
                else:
                    assert "poison" not in text and "greedy" not in text
                    assert text == "nan" or result == FakeEngine._logits(text)
        self.open = still

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            self.loop.close()
            return

        async def end() -> None:
            self.engine.broken = False
            await asyncio.gather(*(task for *_, task in self.open), return_exceptions=True)  # Deadlock if one is lost
            await asyncio.sleep(100 * self.seconds)  # what callers left in the model
            assert (self.batcher.load.windows, self.batcher.load.tokens, self.batcher._queue.empty) == (0, 0, True)
            self.seconds = 0.1  # a probe that a health check waits for
            assert await self.batcher.recheck()
            assert isinstance((await self.batcher.submit([item("a")], Deadline.after(1e6)))[0], list)
            await asyncio.gather(*(lane.end() for lane in self.batcher.lanes))

        self.step(end())
        self.look_at_answers()
        assert not self.open
        self.loop.close()


TestAnyCourseOfEvents = Machine.TestCase
TestAnyCourseOfEvents.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
