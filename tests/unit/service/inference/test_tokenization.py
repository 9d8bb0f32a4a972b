"""The threads in which texts are tokenised know how long their calls have been running."""

import threading

import pytest

from service.inference.tokenization import TokenizerThreads


def test_the_oldest_running_call_counts() -> None:
    threads = TokenizerThreads()
    assert threads.running_s == 0
    entered, released = threading.Semaphore(0), threading.Event()

    def held() -> None:
        entered.release()
        assert released.wait(30)

    calls = [threads.submit(held) for _ in range(3)]
    for _ in range(2):  # the third waits for a thread
        assert entered.acquire(timeout=30)
    before = threads.running_s
    assert 0 < before <= threads.running_s
    released.set()
    for call in calls:
        call.result(timeout=30)
    threads.shutdown(wait=True)
    assert threads.running_s == 0


def test_a_call_that_fails_is_forgotten() -> None:
    threads = TokenizerThreads()
    failed = threads.submit(int, "no number")
    with pytest.raises(ValueError, match="no number"):
        failed.result(timeout=30)
    threads.shutdown(wait=True)
    assert threads.running_s == 0
