"""Texts made of words that differ enough between the labels for a tiny model to learn."""

import random
import re
from collections.abc import Iterator

WORDS = {
    label: words.split()
    for label, words in {
        "business": "shares profit bank market firm sales growth investors merger price dollar quarter",
        "politics": "minister parliament vote party election government law debate policy leader bill tax",
        "sport": "goal match team coach season cup player win league striker injury final",
    }.items()
}
LABELS = tuple(WORDS)
COMMON = re.findall(r"\w+", "the a on with after before new old first last and said that for many few")


def news_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return rows whose labels take turns; no two texts are alike."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = LABELS[i % len(LABELS)]
        words = [rng.choice(WORDS[label] if rng.random() < 0.6 else COMMON) for _ in range(rng.randint(12, 40))]
        rows.append({"label": label, "text": f"{' '.join(words)} {i}."})
    return rows


def corpus() -> Iterator[str]:
    for row in news_rows(300, seed=1):
        yield row["text"]


def documents() -> Iterator[str]:
    """Yield documents of a headline and some sentences on one line each or on one line together."""
    rng = random.Random(2)
    for i, row in enumerate(news_rows(120, seed=3)):
        words = row["text"].split()
        sentences = [f"{' '.join(words[k : k + 9]).capitalize()}." for k in range(0, len(words), 9)]
        yield f"{rng.choice(WORDS[row['label']]).title()} number {i} today\n" + " \n"[i % 2].join(sentences)
