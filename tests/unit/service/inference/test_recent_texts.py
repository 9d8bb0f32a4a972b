from service.inference.recent_texts import MAX_CHARS, REPLACE_EVERY, RecentTexts


def test_samples_are_few_and_not_only_the_latest() -> None:
    samples = RecentTexts(64)
    for i in range(10_000):
        samples.add(str(i))
    samples.add("x" * (MAX_CHARS + 1))
    numbers = sorted(map(int, samples.texts))
    assert len(numbers) == 64
    assert numbers[-1] - numbers[0] > 64 * REPLACE_EVERY / 4, "spread over more than the last moment"
    assert numbers[-1] > 9_000 and len(set(numbers)) == 64
    nothing = RecentTexts(0)
    nothing.add("a")
    assert nothing.texts == []
