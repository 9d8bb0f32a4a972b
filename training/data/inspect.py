"""A report on labelled texts before training: classes, lengths, duplicates, leaks, suspicious labels."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.data.duplicates import find_groups, normalise
from training.data.files import name_of, replace_text
from training.data.read import Example, fingerprint
from training.data.splits import SPLIT_NAMES, WHOLE, find_leaks, group_columns, group_parts, read_parts
from training.report.baseline import CHARACTERS, WORDS, fit_baseline, words_suffice
from training.report.pages import render

FOLDS = 5
SUSPICIOUS_BELOW = 0.1
"""A label is suspicious if a baseline that never saw the text gives it a probability below this."""
SUSPICIOUS_ABOVE = 0.6
"""A label is suspicious only if the same baseline also gives another label a probability above this."""
TRAINED_ON = 20_000
"""Most texts that the baseline learns from in a fold, at random; labels that are not among them are not judged."""
TEXTS_AT_ONCE = 10_000
"""Texts that the baseline judges at once."""
MIN_GROUPS = 2
"""Near-duplicate groups that a label needs, so that it can be learnt from one and checked on another."""
SHOWN = 50
"""Rows of a list that the page shows; data.json has all."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class LocatedExample:
    """An example and the part of a given split that it is in; empty if the data have no split."""

    example: Example
    part: str

    @property
    def place(self) -> str:
        """Part and row."""
        return f"{self.part} {self.example.row}".strip()


@dataclass(frozen=True)
class Suspicion:
    """A text whose label is improbable to a baseline that was trained on the other texts."""

    row: str
    label: str
    probability: float
    other: str
    other_probability: float
    text: str


def report_data(config: DataConfig, output: Path) -> dict[str, Any]:
    """Write a report on the data to `data.md` and `data.json`.

    Args:
        config: the data.
        output: directory of the two files; made if needed.

    Returns:
        The content of `data.json`.

    Raises:
        DataError: the data have problems, all of which it lists.
        ConfigError: the output cannot be written.
    """
    parts = read_parts(config)
    rows = [LocatedExample(e, part) for part, examples in parts.items() for e in examples]
    group_ids = group_parts(parts)
    groups = [number for ids in group_ids.values() for number in ids]
    suspicious, unchecked = suspicious_labels(rows, groups)
    facts = {
        "data": name_of(config.data),
        "fingerprint": fingerprint(row.example for row in rows),
        "rows": len(rows),
        "group_columns": group_columns(row.example for row in rows),
        "parts": {part: len(examples) for part, examples in parts.items() if part != WHOLE},
        "labels": dict(Counter(row.example.label for row in rows).most_common()),
        "words": _quantiles([len(normalise(row.example.text).split()) for row in rows]),
        "characters": _quantiles([len(row.example.text) for row in rows]),
        **_duplicates(rows, groups),
        "labels_too_small": _too_small(rows, groups) if list(parts) == [WHOLE] else [],
        "leaks": [str(leak) for leak in find_leaks(parts, group_ids)],
        "suspicious": [vars(s) for s in suspicious],
        "labels_not_checked": unchecked,
    }
    page = render("data.md.j2", **facts, shown=SHOWN, below=SUSPICIOUS_BELOW, above=SUSPICIOUS_ABOVE)
    replace_text(output / "data.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    replace_text(output / "data.md", page)
    return facts


def _too_small(rows: Sequence[LocatedExample], groups: Sequence[int]) -> list[str]:
    """Return the labels that have too few groups to be split into train, val and test."""
    pairs = {(row.example.label, group) for row, group in zip(rows, groups, strict=True)}
    found = Counter(label for label, _ in pairs)
    return sorted(label for label, count in found.items() if count < len(SPLIT_NAMES))


def suspicious_labels(rows: Sequence[LocatedExample], groups: Sequence[int]) -> tuple[list[Suspicion], list[str]]:
    """Return the texts whose label is improbable to TF-IDF + logistic regression trained on other groups, worst first.

    After C. Northcutt and others, "Confident Learning", JAIR 2021: the model judges texts that it was not trained on.
    Some of these labels are wrong, some texts are only hard.

    Returns:
        The texts, and the labels that occur in too few groups to be checked.
    """
    groups_of: dict[str, set[int]] = defaultdict(set)
    for row, group in zip(rows, groups, strict=True):
        groups_of[row.example.label].add(group)
    names = sorted(name for name, found in groups_of.items() if len(found) >= MIN_GROUPS)
    unchecked = sorted(set(groups_of) - set(names))
    if len(names) < 2:
        return [], sorted(groups_of)
    ids = {name: i for i, name in enumerate(names)}
    label_ids = np.array([ids.get(row.example.label, -1) for row in rows])
    folds = np.where(label_ids < 0, -1, _folds(label_ids, np.asarray(groups)))
    found: list[Suspicion] = []
    features = ""
    for fold in range(FOLDS):
        seen, unseen = np.flatnonzero((folds != fold) & (label_ids >= 0)), np.flatnonzero(folds == fold)
        if not len(unseen):
            continue
        seen = np.random.default_rng(fold).permutation(seen)[:TRAINED_ON]
        train = [rows[i].example.text for i in seen.tolist()], label_ids[seen].tolist()
        if not features:  # chosen in the first fold, for all
            val = [rows[i].example.text for i in unseen.tolist()], label_ids[unseen].tolist()
            features = WORDS if words_suffice(train, val) else CHARACTERS
        pipeline = fit_baseline(*train, features)
        unseen = unseen[np.isin(label_ids[unseen], pipeline.classes_)]
        for chunk in np.array_split(unseen, len(unseen) // TEXTS_AT_ONCE + 1):
            probs_bc = np.zeros((len(chunk), len(names)))
            judged = [rows[i] for i in chunk.tolist()]
            probs_bc[:, pipeline.classes_] = pipeline.predict_proba([row.example.text for row in judged])
            found += _suspicions(judged, label_ids[chunk], probs_bc, names)
    return sorted(found, key=lambda s: s.probability - s.other_probability), unchecked


def _suspicions(
    rows: Sequence[LocatedExample], label_ids: NDArray[np.int64], probs_bc: NDArray[np.float64], names: Sequence[str]
) -> Iterator[Suspicion]:
    own_b, others_b = probs_bc[np.arange(len(rows)), label_ids], probs_bc.argmax(axis=1)
    for i in np.flatnonzero((own_b < SUSPICIOUS_BELOW) & (probs_bc.max(axis=1) > SUSPICIOUS_ABOVE)).tolist():
        own, other = (round(float(prob), 4) for prob in (own_b[i], probs_bc[i, others_b[i]]))
        start = " ".join(rows[i].example.text.split())[:120]
        yield Suspicion(rows[i].place, rows[i].example.label, own, names[others_b[i]], other, start)


def _folds(label_ids: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fold of each row: groups are whole, and those of one label are dealt to the folds in turn."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    order = np.lexsort((np.random.default_rng(0).permutation(len(first)), label_ids[first]))
    fold_of_group = np.empty(len(first), dtype=np.int64)
    fold_of_group[order] = np.arange(len(first)) % FOLDS
    return fold_of_group[place]


def _duplicates(rows: Sequence[LocatedExample], groups: Sequence[int]) -> dict[str, Any]:
    sizes = Counter(groups)
    copies: dict[int, list[LocatedExample]] = defaultdict(list)
    for number, row in zip(groups, rows, strict=True):
        if sizes[number] > 1:
            copies[number].append(row)
    return {
        "different_texts": len(set(find_groups([row.example.text for row in rows], near=False))),
        "near_duplicate_groups": len(sizes),
        "rows_with_a_near_duplicate": sum(map(len, copies.values())),
        "largest_group": max(sizes.values()),
        "groups_with_several_labels": [
            {"rows": [r.place for r in group], "labels": [r.example.label for r in group]}
            for group in copies.values()
            if len({r.example.label for r in group}) > 1
        ],
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    return {f"{q:.0%}": round(float(v)) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
