"""The queue's rules over random arrivals, without loop or clock."""

from hypothesis import given
from hypothesis import strategies as st

from service.inference.engine import EncodedWindow
from service.inference.queue import LOOKAHEAD, MAX_PASSED_OVER, PRIORITIES, Priority, Queue, QueuedWindow

arrivals = st.lists(st.tuples(st.sampled_from(PRIORITIES), st.integers(1, 12)), max_size=60)


def entry(tokens: int, key: str | None = None) -> EncodedWindow:
    return EncodedWindow(tokens, (), tokens, key)


def filled(arrived: list[tuple[Priority, int]]) -> tuple[Queue, list[QueuedWindow]]:
    queue = Queue()
    return queue, [queue.add(entry(tokens), priority, float(now)) for now, (priority, tokens) in enumerate(arrived)]


def batches(queue: Queue, budget: int) -> list[list[QueuedWindow]]:
    made = []
    while batch := queue.next_batch(budget):
        made.append(batch)
        for queued in batch:
            queue.discard(queued)
    return made


@given(arrivals, st.integers(1, 20))
def test_everything_comes_once_and_within_the_budget(arrived: list[tuple[Priority, int]], budget: int) -> None:
    queue, added = filled(arrived)
    assert queue.tokens == sum(tokens for _, tokens in arrived)
    made = batches(queue, budget)
    assert sorted(queued.queued_at for batch in made for queued in batch) == [queued.queued_at for queued in added]
    for batch in made:
        assert len(batch) == 1 or sum(queued.window.computed_tokens for queued in batch) <= budget
    assert queue.empty and queue.tokens == 0


@given(arrivals, st.integers(1, 20))
def test_a_batch_begins_with_the_oldest_of_the_priority_that_leads(
    arrived: list[tuple[Priority, int]], budget: int
) -> None:
    queue, added = filled(arrived)
    waiting = {priority: [queued for queued in added if queued.priority == priority] for priority in PRIORITIES}
    for batch in batches(queue, budget):
        assert batch[0] is waiting[batch[0].priority][0]
        for queued in batch:
            waiting[queued.priority].remove(queued)


@given(arrivals, st.integers(1, 20))
def test_higher_priorities_lead_so_many_batches_in_a_row_at_most(
    arrived: list[tuple[Priority, int]], budget: int
) -> None:
    queue, added = filled(arrived)
    waiting = {priority: [queued for queued in added if queued.priority == priority] for priority in PRIORITIES}
    in_a_row = dict.fromkeys(PRIORITIES, 0)
    for batch in batches(queue, budget):
        leads = batch[0].priority
        for rank, priority in enumerate(PRIORITIES):
            if waiting[priority] and leads in PRIORITIES[:rank]:
                in_a_row[priority] += 1
            elif leads == priority or not waiting[priority]:
                in_a_row[priority] = 0
            assert in_a_row[priority] <= MAX_PASSED_OVER
        for queued in batch:
            waiting[queued.priority].remove(queued)


@given(arrivals)
def test_tokens_until_done_counts_what_goes_first(arrived: list[tuple[Priority, int]]) -> None:
    queue, added = filled(arrived)
    of = {p: sum(queued.window.tokens for queued in added if queued.priority == p) for p in PRIORITIES}
    share = (MAX_PASSED_OVER + 1) / MAX_PASSED_OVER
    assert queue.tokens_until_done(3, "bulk") == sum(of.values()) + 3
    behind = share if of["bulk"] else 1
    assert queue.tokens_until_done(3, "interactive") == round((of["short"] + of["interactive"] + 3) * behind)
    behind = share if of["interactive"] + of["bulk"] else 1
    assert queue.tokens_until_done(3, "short") == round((of["short"] + 3) * behind)


def test_lookahead_is_bounded() -> None:
    queue, _ = filled([(PRIORITIES[0], 2)] * (LOOKAHEAD + 1) + [(PRIORITIES[0], 1)])
    batch = queue.next_batch(2 * LOOKAHEAD + 1)
    assert len(batch) == LOOKAHEAD


def test_an_equal_window_is_found_until_the_model_is_done_with_it() -> None:
    queue = Queue()
    queued = queue.add(entry(5, "a"), "bulk", 0.0)
    assert queue.find("a") is queued
    assert queue.next_batch(10) == [queued]
    assert queue.find("a") is queued
    assert not queue.withdraw(queued), "it is in the model"
    queue.discard(queued)
    assert queue.find("a") is None and queue.empty


def test_a_promoted_window_waits_behind_the_interactive_ones() -> None:
    queue = Queue()
    first = queue.add(entry(1, "first"), "bulk", 0.0)
    promoted = queue.add(entry(1, "promoted"), "bulk", 1.0)
    text = queue.add(entry(1, "text"), "interactive", 2.0)
    queue.promote(promoted, "interactive")
    queue.promote(text, "bulk")
    assert [queued.window.key for queued in queue.next_batch(10)] == ["text", "promoted", "first"]
    assert promoted.priority == "interactive" and first.priority == "bulk"


def test_what_was_cleared_is_not_counted_when_the_model_is_done_with_it() -> None:
    queue = Queue()
    queue.add(entry(5, "a"), "interactive", 0.0)
    [old] = queue.next_batch(10)
    queue.clear()
    new = queue.add(entry(7, "a"), "interactive", 1.0)
    queue.discard(old)
    assert queue.tokens == 7 and queue.find("a") is new
