import pytest

from service.errors import ServiceError
from service.inference.admission import FIRST_BATCHES, TIMELY, Admission, ModelRate, QueueLimits
from service.inference.engine import EncodedWindow
from service.inference.queue import Queue

LIMITS = QueueLimits(max_windows=3, max_tokens=100, max_batch_tokens=20, tokens_per_s=10.0)


def admission(windows: int, tokens: int, limits: QueueLimits = LIMITS) -> Admission:
    """Over a queue of one window of so many tokens, for which `windows` results wait."""
    queue = Queue()
    if tokens:
        queue.add(EncodedWindow(tokens, (), tokens, None), "interactive", 0.0)
    one = Admission(queue, limits)
    one.windows = windows
    return one


def test_an_empty_queue_takes_any_request() -> None:
    admission(0, 0).check(windows=1000, tokens=10**6, left_s=0.001, priority="interactive")


@pytest.mark.parametrize(("windows", "tokens"), [(3, 1), (2, 100)])
def test_what_goes_beyond_a_bound_is_refused_with_the_figures(windows: int, tokens: int) -> None:
    with pytest.raises(ServiceError) as caught:
        admission(1, 1).check(windows, tokens, left_s=1e6, priority="interactive")
    assert caught.value.kind == "overloaded"
    assert caught.value.retry_after_s == pytest.approx(0.1)  # one token, ten a second
    assert "holds 1 windows and 1 tokens, the limits are 3 and 100" in str(caught.value)
    assert f"needs {windows} and {tokens}" in str(caught.value)


def test_bounds_themselves_may_be_reached() -> None:
    admission(1, 1).check(windows=2, tokens=99, left_s=1e6, priority="interactive")


def test_what_would_come_too_late_is_refused() -> None:
    one = admission(1, 50)
    takes_s = (50 + 10) / 10
    one.check(1, 10, left_s=takes_s / TIMELY, priority="interactive")
    with pytest.raises(ServiceError, match=r"done in about 6\.0 s, 7\.4 s are allowed"):
        one.check(1, 10, left_s=takes_s / TIMELY - 0.1, priority="interactive")
    one.check(1, 0, left_s=0.1, priority="interactive")  # others' work: nothing is added to the queue


def test_nothing_is_too_late_before_a_rate_is_known() -> None:
    one = admission(1, 50, QueueLimits(max_windows=3, max_tokens=100, max_batch_tokens=20))
    one.check(1, 10, left_s=0.001, priority="interactive")
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
