"""Near-duplicate texts, such as the same story told twice, found by the word 5-grams that two texts share."""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE_WORDS = 5
MIN_CONTAINMENT = 0.5
"""Two texts are near-duplicates if they share at least this fraction of the distinct shingles of the shorter one."""
MAX_TEXTS_PER_SHINGLE = 200
"""A shingle in more texts than this is boilerplate ("The full story is at ...") and joins no texts."""
MIN_SHARED = 3
"""Fewest shared shingles: "please cancel my order number 5" and "... number 7" are two texts."""

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Return the lower-cased words joined by single spaces, which are equal if only case or punctuation differ.

    A text without any word, for instance of emoji, is returned as it is, with single spaces.
    """
    return " ".join(_WORD.findall(text.lower())) or " ".join(text.split())


def find_groups(texts: Sequence[str], given: Sequence[str | None] | None = None, *, near: bool = True) -> list[int]:
    """Return the group of near-duplicates to which each text belongs.

    Args:
        texts: the texts.
        given: known group of each text, or None; texts of one group are joined. If every text has a group, only exact
            duplicates are searched in addition, because the given groups already cover near-duplicates.
        near: whether near-duplicates are searched.

    Returns:
        For each text the index of the first text of its group. Groups are transitive: if a is like b and b is like c,
        all three form one group.
    """
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            low, high = sorted((root(a), root(b)))
            parent[high] = low

    given = given if given is not None else [None] * len(texts)
    join(_same(given))
    words = [normalise(text) for text in texts]
    join(_same(words))
    if near and any(group is None for group in given):
        join(near_duplicate_pairs(words))
    return [root(i) for i in range(len(texts))]


def near_duplicate_pairs(normalised: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs (a, b), a < b, of near-duplicates.

    The search is exact: an inverted index maps shingles to texts. Memory and time grow with the number of shingles.

    Args:
        normalised: texts as returned by `normalise`.
    """
    shingles = [_shingles(text) for text in normalised]
    if not shingles:
        return []
    hashes = np.concatenate(shingles)
    owners = np.repeat(np.arange(len(shingles)), [len(s) for s in shingles])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    lengths = np.diff(np.r_[starts, len(hashes)])
    shared: Counter[tuple[int, int]] = Counter()
    for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
        if length <= MAX_TEXTS_PER_SHINGLE:
            members = owners[start : start + length].tolist()
            shared.update((members[i], members[j]) for i in range(length) for j in range(i + 1, length))
    return [
        (a, b)
        for (a, b), n in shared.items()
        if n >= max(MIN_SHARED, MIN_CONTAINMENT * min(len(shingles[a]), len(shingles[b])))
    ]


def _same(values: Sequence[str | None]) -> Iterable[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, value in enumerate(values):
        if value is not None and first.setdefault(value, i) != i:
            yield first[value], i


def _shingles(normalised: str) -> NDArray[np.uint64]:
    """Return the distinct hashes of the shingles of a text; a text shorter than one shingle is its only shingle."""
    words = normalised.split()
    if len(words) < SHINGLE_WORDS:
        return np.array([zlib.crc32(normalised.encode())], dtype=np.uint64)
    codes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
    count = len(codes) - SHINGLE_WORDS + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(SHINGLE_WORDS):  # polynomial hash modulo 2**64
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + count]
    return np.unique(hashes)
