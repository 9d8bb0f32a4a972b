import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import Batcher, Limits, Result
from service.engine import Item
from service.errors import ServiceError
from service.telemetry import Metrics
from tests.service.conftest import reached
from tests.service.fakes import LABELS, FakeEngine

pytestmark = pytest.mark.anyio

LIMITS = Limits(max_items=100, max_tokens=1000, max_batch_tokens=20)


def items(*texts: str) -> list[Item]:
    return [Item(len(text.split()), text) for text in texts]


def words(count: int, tail: str = "x") -> str:
    return " ".join([tail] * count)


def labels(results: list[Result]) -> list[str]:
    return [r.kind if isinstance(r, ServiceError) else LABELS[list(r).index(10.0)] for r in results]


@pytest.fixture
async def batcher(engine: FakeEngine) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, LIMITS, Metrics())
    batcher.start()
    yield batcher
    engine.gate.set()
    await batcher.close()


async def submitted(batcher: Batcher, *requests: list[Item]) -> list["asyncio.Task[list[Result]]"]:
    """Submit requests in this order without waiting for their answers."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.submit(request, 30)))
        await asyncio.sleep(0)
    return tasks


async def test_an_idle_batcher_starts_at_once_and_answers_in_order(engine: FakeEngine, batcher: Batcher) -> None:
    results = await batcher.submit(items("a", "bb", "ccc"), 30)
    assert labels(results) == ["politics", "sport", "business"]
    assert engine.batches == [["a", "bb", "ccc"]]
    assert (batcher.load.items, batcher.load.tokens) == (0, 0)


async def test_what_arrives_while_the_model_is_busy_shares_the_next_batch(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    others = await submitted(batcher, items("b"), items("c d"), items("e"))
    engine.gate.set()
    await asyncio.gather(*first, *others)
    assert [sorted(batch) for batch in engine.batches] == [["a"], ["b", "c d", "e"]]


async def test_batches_keep_to_the_token_budget_and_begin_with_the_oldest(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    sizes = [12, 9, 3, 7, 19, 1]
    others = await submitted(batcher, *(items(words(n)) for n in sizes))
    engine.gate.set()
    await asyncio.gather(*first, *others)
    lengths = [[len(text.split()) for text in batch] for batch in engine.batches[1:]]
    assert all(sum(batch) <= LIMITS.max_batch_tokens for batch in lengths)
    left = list(sizes)
    for batch in lengths:
        assert batch[0] == left[0]
        for n in batch:
            left.remove(n)
    assert left == []


async def test_cost_of_padding_counts(engine: FakeEngine, batcher: Batcher) -> None:
    engine.padded = True
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    others = await submitted(batcher, items(words(10)), items("b"), items(words(9)), items("c"))
    engine.gate.set()
    await asyncio.gather(*first, *others)
    assert [[len(t.split()) for t in batch] for batch in engine.batches[1:]] == [[10, 9], [1, 1]]


async def test_item_larger_than_the_budget_runs_alone(engine: FakeEngine, batcher: Batcher) -> None:
    results = await batcher.submit(items("a", words(50), "b"), 30)
    assert len(results) == 3
    assert [words(50)] in engine.batches


async def test_request_is_admitted_whole_or_refused_whole(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    [first] = await submitted(batcher, items(*["a"] * 60))
    with pytest.raises(ServiceError) as caught:
        await batcher.submit(items(*["b"] * 41), 30)
    assert (caught.value.kind, caught.value.status) == ("overloaded", 429)
    assert caught.value.retry_after_s is not None
    assert batcher.load.items == 60
    [second] = await submitted(batcher, items(*["b"] * 40))
    engine.gate.set()
    assert [len(r) for r in await asyncio.gather(first, second)] == [60, 40]


async def test_tokens_are_limited_too(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    tasks = await submitted(batcher, items(words(990)))
    with pytest.raises(ServiceError, match="990 tokens"):
        await batcher.submit(items(words(11)), 30)
    engine.gate.set()
    await asyncio.gather(*tasks)


async def test_empty_batcher_takes_a_request_above_its_limits(batcher: Batcher) -> None:
    """Refused now, it would be refused for ever."""
    assert len(await batcher.submit(items(*["a"] * 150), 30)) == 150


async def test_retry_after_follows_the_measured_rate(batcher: Batcher) -> None:
    assert batcher.retry_after_s() == 1.0
    batcher.load.tokens, batcher.load.tokens_per_s = 500, 100.0
    assert batcher.retry_after_s() == 5.0


async def test_culprit_of_a_batch_is_found_and_the_others_answered(engine: FakeEngine, batcher: Batcher) -> None:
    texts = [f"t{'x' * i}" for i in range(16)]
    texts[11] = "poison"
    results = await batcher.submit(items(*texts), 30)
    expected = [LABELS[len(text) % 3] for text in texts]
    expected[11] = "inference_failed"
    assert labels(results) == expected
    assert batcher.healthy  # the probe found the model well


async def test_broken_model_turns_unhealthy_and_recovers(engine: FakeEngine, batcher: Batcher) -> None:
    engine.broken = True
    assert labels(await batcher.submit(items("a", "b"), 30)) == ["inference_failed"] * 2
    assert not batcher.healthy and not await batcher.recheck()
    engine.broken = False
    recovered = await batcher.recheck()
    assert recovered
    assert labels(await batcher.submit(items("a"), 30)) == ["politics"]


async def test_engine_that_loses_a_row_fails_loudly(
    engine: FakeEngine, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "infer", lambda items: [])
    assert labels(await batcher.submit(items("a"), 30)) == ["inference_failed"]


async def test_expired_caller_is_told_and_its_work_dropped(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    with pytest.raises(ServiceError) as caught:
        await batcher.submit(items("late"), 0.0)
    assert (caught.value.kind, caught.value.status) == ("deadline_exceeded", 504)
    engine.gate.set()
    await asyncio.gather(*first)
    assert labels(await batcher.submit(items("b"), 30)) == ["politics"]
    assert ["late"] not in engine.batches
    assert batcher.load.items == 0


async def test_callers_that_gave_up_take_nobodys_place(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    with pytest.raises(ServiceError):
        await batcher.submit(items(*["late"] * 99), 0.0)
    assert (batcher.load.items, batcher.load.tokens) == (1, 1)
    second = await submitted(batcher, items(*["b"] * 99))
    engine.gate.set()
    await asyncio.gather(*first, *second)
    assert (batcher.load.items, batcher.load.tokens) == (0, 0)


async def test_message_names_the_time_that_was_allowed(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    with pytest.raises(ServiceError, match="within 2000 ms"):
        await batcher.submit(items("a"), 2.0, spent_s=2.0)


async def test_departed_caller_costs_nothing(engine: FakeEngine, batcher: Batcher) -> None:
    engine.gate.clear()
    first = await submitted(batcher, items("a"))
    await reached(engine)
    [departed] = await submitted(batcher, items("gone"))
    departed.cancel()
    await asyncio.gather(departed, return_exceptions=True)
    engine.gate.set()
    await asyncio.gather(*first, batcher.submit(items("b"), 30))
    assert all("gone" not in batch for batch in engine.batches)
    assert batcher.load.items == 0


async def test_closing_tells_everyone_who_waits(engine: FakeEngine) -> None:
    batcher = Batcher(engine, LIMITS, Metrics())
    batcher.start()
    engine.gate.clear()
    tasks = await submitted(batcher, items("a"))
    await reached(engine)
    tasks += await submitted(batcher, items("b"))
    closing = asyncio.create_task(batcher.close())
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r.kind for r in results if isinstance(r, ServiceError)] == ["draining", "draining"]
    engine.gate.set()
    await closing
    with pytest.raises(ServiceError, match="stopping"):
        await batcher.submit(items("c"), 30)


async def test_dead_worker_is_seen_and_nobody_waits_for_it(
    engine: FakeEngine, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault() -> list[object]:
        raise RuntimeError("a fault of the batcher itself")

    monkeypatch.setattr(batcher, "_next_batch", fault)
    with pytest.raises(ServiceError, match="worker has failed"):
        await batcher.submit(items("a"), 30)
    assert not batcher.healthy and not await batcher.recheck()
    with pytest.raises(ServiceError, match="must be restarted"):
        await batcher.submit(items("b"), 30)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "bb c", "poison", "d e f", "nan", words(25)]), min_size=1, max_size=6),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_every_request_gets_its_own_answer_exactly_once(requests: list[list[str]], padded: bool) -> None:
    async def scenario() -> list[list[Result]]:
        engine = FakeEngine()
        engine.padded = padded
        batcher = Batcher(engine, LIMITS, Metrics())
        batcher.start()
        answers = await asyncio.gather(*(batcher.submit(items(*texts), 30) for texts in requests))
        assert (batcher.load.items, batcher.load.tokens) == (0, 0)
        seen = [text for batch in engine.batches for text in batch if "poison" not in text]
        for batch in engine.batches:
            assert len(batch) == 1 or engine.batch_cost([len(t.split()) for t in batch]) <= LIMITS.max_batch_tokens
        assert all(seen.count(text) >= sum(r.count(text) for r in requests) for text in set(seen))
        await batcher.close()
        return answers

    for texts, results in zip(requests, asyncio.run(scenario()), strict=True):
        for text, result in zip(texts, results, strict=True):
            if "poison" in text:
                assert isinstance(result, ServiceError)
            elif text != "nan":
                assert result == FakeEngine._logits(text)
