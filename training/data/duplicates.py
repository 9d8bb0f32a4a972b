"""Near-duplicate texts, such as the same story told twice, found by the word 5-grams that two texts share."""

import hashlib
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SHINGLE_WORDS = 5
MIN_CONTAINMENT = 0.5
"""Two texts are near-duplicates if they share at least this fraction of the distinct shingles of the shorter one."""
MIN_SHARED = 3
"""Fewest shared shingles: "please cancel my order number 5" and "... number 7" are two texts."""
MAX_TEXTS_PER_SHINGLE = 200
"""A shingle in more texts than this may be boilerplate ("The full story is at ..."). It counts only for two texts that
share `MIN_CONTAINMENT` of the longer one's shingles, as copies of one text do: a text that is nothing but boilerplate
must not join all texts that contain it."""
NEIGHBOURS = 10
"""Texts after a text, in the order of the file, with which it is compared for such a shingle; copies form a chain."""
SHINGLES_AT_ONCE = 1 << 24
"""Shingles that are sorted at once; it bounds memory."""
PAIRS_AT_ONCE = 1 << 22
"""Pairs of texts that are counted at once, one for each shingle that they share; it bounds memory."""

_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, Japanese
)
_WORD = re.compile(f"[{_NO_SPACES}]|[^\\W{_NO_SPACES}]+")
"""A word; each character of a script that is written without spaces between words is one."""


def normalise(text: str) -> str:
    """Return the lower-cased words joined by single spaces, which are equal if only case or punctuation differ.

    A text without any word, for instance of emoji, is returned as it is, with single spaces.
    """
    return " ".join(_WORD.findall(text.lower())) or " ".join(text.split())


def find_groups(texts: Sequence[str], given: Sequence[str | None] | None = None, *, near: bool = True) -> list[int]:
    """Return the group of near-duplicates to which each text belongs.

    The search is exact, except for shingles in more than `MAX_TEXTS_PER_SHINGLE` texts. Memory grows with the number of
    words (4 bytes each) and of shingles that several texts share, time with the pairs of texts that share a shingle.

    Args:
        texts: the texts.
        given: known group of each text, or None; texts of one group are joined.
        near: whether near-duplicates are searched; exact copies are always joined.

    Returns:
        For each text the index of the first text of its group. Groups are transitive: if a is like b and b is like c,
        all three form one group.
    """
    codes, lengths = array("I"), array("q")
    copies: dict[bytes, int] = {}
    joined: list[tuple[int, int]] = []
    for i, text in enumerate(texts):
        words = normalise(text)
        first = copies.setdefault(hashlib.blake2b(words.encode(), digest_size=16).digest(), i)
        if first != i:
            joined.append((first, i))
        before = len(codes)
        if near and first == i:
            codes.extend(zlib.crc32(word.encode()) for word in words.split())
        lengths.append(len(codes) - before)
    known: dict[str, int] = {}
    for i, group in enumerate(given or ()):
        if group is not None and known.setdefault(group, i) != i:
            joined.append((known[group], i))
    pairs = [np.array(joined, dtype=np.int64).reshape(-1, 2), *_near_duplicates(np.asarray(codes), np.asarray(lengths))]
    a, b = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(len(texts), len(texts)))
    _, numbers = connected_components(graph, directed=False)
    firsts = np.unique(numbers, return_index=True)[1]
    groups: list[int] = firsts[numbers].tolist()
    return groups


def _near_duplicates(codes: NDArray[np.uint32], lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of near-duplicates, arrays (pairs, 2).

    Args:
        codes: codes of the words of all texts, end to end.
        lengths: number of words of each text.
    """
    texts, sizes, counts = _shared_shingles(codes, lengths)
    frequent = np.repeat(sizes > MAX_TEXTS_PER_SHINGLE, sizes)
    reach = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(texts)) - 1  # texts of the shingle after this one
    reach[frequent] = np.minimum(reach[frequent], NEIGHBOURS)
    # All entries of a text are counted at once, so that no pair is divided.
    chunks = np.cumsum(np.bincount(texts, weights=reach, minlength=len(lengths))) // PAIRS_AT_ONCE
    order = np.argsort(texts, kind="stable")
    for entries in np.split(order, np.flatnonzero(np.diff(chunks[texts[order]])) + 1):
        # The shingle's texts after this one: the entries that follow, as many as `reach` says.
        after = reach[entries]
        first = np.repeat(entries, after)
        second = first + np.arange(1, len(first) + 1) - np.repeat(np.cumsum(after) - after, after)
        yield _alike(texts[first], texts[second], ~frequent[first], counts)


def _alike(
    a: NDArray[np.int32], b: NDArray[np.int32], rare: NDArray[np.bool_], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the near-duplicates among pairs (a, b) of texts, of which each stands here once a shared shingle.

    Args:
        a: one text of each pair.
        b: the other.
        rare: whether the shared shingle is in at most `MAX_TEXTS_PER_SHINGLE` texts.
        counts: number of different shingles of each text.
    """
    keys = a.astype(np.int64) * len(counts) + b
    order = np.argsort(keys)
    keys, rare = keys[order], rare[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    shared, shared_rare = np.diff(starts, append=len(keys)), np.add.reduceat(rare, starts, dtype=np.int64)
    pairs = np.stack(np.divmod(keys[starts], len(counts)), axis=1)
    shorter, longer = np.sort(counts[pairs], axis=1).T
    near = (shared_rare >= np.maximum(MIN_SHARED, MIN_CONTAINMENT * shorter)) | (
        shared >= np.maximum(MIN_SHARED, MIN_CONTAINMENT * longer)
    )
    alike: NDArray[np.int64] = pairs[near]
    return alike


def _shared_shingles(
    codes: NDArray[np.uint32], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return which texts share shingles.

    Returns:
        The texts of each shingle that is in several, in their order, the shingles end to end; the number of texts of
        each of these shingles; and the number of different shingles of each text.
    """
    owners = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    counts = np.zeros(len(lengths), dtype=np.int64)
    shared_texts, shared_sizes = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int64)]
    step = SHINGLES_AT_ONCE
    parts = -(-len(codes) // step)
    for part in range(parts):  # of the range of hashes
        stretches = (slice(start, start + step + SHINGLE_WORDS - 1) for start in range(0, len(codes), step))
        found = [_hashes(codes[stretch], owners[stretch], part, parts) for stretch in stretches]
        hashes, texts = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.argsort(hashes, kind="stable")
        hashes, texts = hashes[order], texts[order]
        new_hash = np.r_[True, hashes[1:] != hashes[:-1]][: len(hashes)]
        distinct = new_hash | (np.diff(texts, prepend=-1) != 0)
        hashes, texts, new_hash = hashes[distinct], texts[distinct], new_hash[distinct]
        counts += np.bincount(texts, minlength=len(lengths))
        sizes = np.diff(np.flatnonzero(new_hash), append=len(hashes))
        shared_texts.append(texts[np.repeat(sizes > 1, sizes)])
        shared_sizes.append(sizes[sizes > 1])
    return np.concatenate(shared_texts), np.concatenate(shared_sizes), counts


def _hashes(
    codes: NDArray[np.uint32], owners: NDArray[np.int32], part: int, parts: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Return hash and text of each shingle whose hash belongs to one of several parts."""
    count = max(len(codes) - SHINGLE_WORDS + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(SHINGLE_WORDS):  # polynomial hash modulo 2**64
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + count]
    whole = owners[:count] == owners[SHINGLE_WORDS - 1 :]
    chosen = whole & (hashes % np.uint64(parts) == part)
    return hashes[chosen], owners[:count][chosen]
