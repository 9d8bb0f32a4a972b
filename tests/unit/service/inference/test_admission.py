from typing import Any

import pytest

from service.errors import ServiceError
from service.inference.admission import FIRST_BATCHES, TIMELY, Admission, ModelRate, QueueLimits
from service.inference.engine import EncodedWindow
from service.inference.queue import Queue

LIMITS = QueueLimits(max_windows=4, max_tokens=100, max_batch_tokens=20, tokens_per_s=10.0)
SHARE_TOKENS = 25


def admission(*tokens: int, limits: QueueLimits = LIMITS) -> Admission:
    """Return the admission over a queue of interactive windows with so many tokens."""
    queue = Queue()
    for each in tokens:
        queue.add(EncodedWindow(each, (), each, None), "interactive", 0.0)
    return Admission(queue, limits)


def check(one: Admission, windows: int, tokens: int, **changes: Any) -> None:
    arguments: dict[str, Any] = {"windows": windows, "tokens": tokens, "left_s": 1e6, "priority": "interactive"}
    one.check(**arguments | changes)


def test_an_empty_queue_takes_any_request() -> None:
    check(admission(), 1000, 10**6, left_s=0.001)


@pytest.mark.parametrize(
    ("queued", "windows", "tokens", "figures"),
    [
        ([1, 1, 1, 1], 1, 1, "holds 4 windows and 4 tokens, the limits of interactive requests are 4 and 100"),
        ([90], 1, 11, "holds 1 windows and 90 tokens, the limits of interactive requests are 4 and 100"),
    ],
)
def test_what_goes_beyond_a_bound_is_refused_with_the_figures(
    queued: list[int], windows: int, tokens: int, figures: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        check(admission(*queued), windows, tokens)
    assert caught.value.kind == "overloaded"
    assert caught.value.retry_after_s == pytest.approx(sum(queued) / 10)
    assert figures in str(caught.value) and f"needs {windows} and {tokens}" in str(caught.value)


def test_bounds_themselves_may_be_reached() -> None:
    check(admission(1, 88, 1), 1, 10)


def test_bulk_leaves_a_quarter_of_the_queue_to_interactive_requests() -> None:
    check(admission(50), 1, 25, priority="bulk")
    for queued in ([51], [1, 1, 1]):
        with pytest.raises(ServiceError, match="the limits of bulk requests are 3 and 75"):
            check(admission(*queued), 1, 25, priority="bulk")
        check(admission(*queued), 1, 25)


def test_a_large_request_needs_room_for_its_share_only() -> None:
    one = admission(50)
    assert one.within_share(1, SHARE_TOKENS)
    assert not one.within_share(1, SHARE_TOKENS + 1) and not one.within_share(2, 2)
    check(one, 1000, 10**6, left_s=1e9, priority="bulk")


def test_a_share_is_four_batches_of_each_lane_if_the_queue_has_room_for_more() -> None:
    limits = QueueLimits(max_windows=100, max_tokens=10_000, max_batch_tokens=20)
    assert Admission(Queue(), limits, lanes=2).within_share(25, 160)
    assert not Admission(Queue(), limits, lanes=2).within_share(1, 161)


def test_a_request_that_adds_nothing_needs_no_room() -> None:
    check(admission(25, 25, 25, 25), 0, 0, left_s=0.1)


def test_what_would_come_too_late_is_refused() -> None:
    one = admission(50)
    takes_s = (50 + 10) / 10
    check(one, 1, 10, left_s=takes_s / TIMELY)
    with pytest.raises(ServiceError, match=r"done in about 6\.0 s, 7\.4 s are allowed"):
        check(one, 1, 10, left_s=takes_s / TIMELY - 0.1)


def test_large_requests_wait_for_one_another() -> None:
    """A request of 65 tokens, 40 of which enter later, beside others that have 100 and 10 tokens to enter."""
    one = admission(50)
    takes_s = (50 + 65 + 40 + 10) / 10
    check(one, 5, 65, left_s=takes_s / TIMELY, priority="bulk", unqueued=[100, 10])
    with pytest.raises(ServiceError, match=r"done in about 16\.5 s"):
        check(one, 5, 65, left_s=takes_s / TIMELY - 0.1, priority="bulk", unqueued=[100, 10])


def test_a_small_request_does_not_wait_for_the_rest_of_large_ones() -> None:
    check(admission(50), 1, 25, left_s=7.5 / TIMELY, priority="bulk", unqueued=[10**6])


def test_nothing_is_too_late_before_a_rate_is_known() -> None:
    one = admission(50, limits=QueueLimits(max_windows=4, max_tokens=100, max_batch_tokens=20))
    check(one, 1, 10, left_s=0.001)
    assert one.retry_after_s() == 1.0


def test_first_rate_is_that_of_several_full_batches() -> None:
    rate = ModelRate(0.0)
    rate.learn(1000, 1.0, full=False)
    for seconds in [8.0, *[1.0] * (FIRST_BATCHES - 1)]:
        assert rate.tokens_per_s == 0
        rate.learn(20, seconds, full=True)
    assert rate.tokens_per_s == pytest.approx(20 * FIRST_BATCHES / (8 + FIRST_BATCHES - 1))


def test_small_batches_raise_a_rate_but_do_not_lower_it() -> None:
    rate = ModelRate(10.0)
    rate.learn(5, 1.0, full=False)
    assert rate.tokens_per_s == 10.0
    rate.learn(20, 1.0, full=False)
    assert rate.tokens_per_s == pytest.approx(12.0)
    rate.learn(2, 1.0, full=True)
    assert rate.tokens_per_s == pytest.approx(10.0)
