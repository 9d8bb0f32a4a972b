"""A report on labelled texts before training: classes, lengths, duplicates, leaks, suspicious labels."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.config import DataConfig
from training.data.duplicates import normalise
from training.data.files import name_of, replace_text
from training.data.read import Example, fingerprint
from training.data.splits import WHOLE, find_leaks, group_columns, group_parts, read_parts
from training.report.baseline import fit_baseline
from training.report.pages import render

FOLDS = 5
SUSPICIOUS_BELOW = 0.1
"""A label is suspicious if a baseline that never saw the text gives it a probability below this."""
SUSPICIOUS_ABOVE = 0.6
"""A label is suspicious only if the same baseline also gives another label a probability above this."""
MIN_GROUPS = 2
"""Near-duplicate groups that a label needs, so that it can be learnt from one and checked on another."""
SHOWN = 50
"""Rows of a list that the page shows; data.json has all."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class LocatedExample:
    """An example and its place: the part of the split, if there is a given split, and the row."""

    example: Example
    place: str


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
    rows = [LocatedExample(e, f"{part} {e.row}".strip()) for part, examples in parts.items() for e in examples]
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
        "leaks": [str(leak) for leak in find_leaks(parts, group_ids)],
        "suspicious": [vars(s) for s in suspicious],
        "labels_not_checked": unchecked,
    }
    page = render("data.md.j2", **facts, shown=SHOWN, below=SUSPICIOUS_BELOW, above=SUSPICIOUS_ABOVE)
    replace_text(output / "data.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    replace_text(output / "data.md", page)
    return facts


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
    kept = [i for i, row in enumerate(rows) if row.example.label in names]
    texts = [rows[i].example.text for i in kept]
    ids = np.array([names.index(rows[i].example.label) for i in kept])
    folds = min(FOLDS, *(len(groups_of[name]) for name in names))
    probs = np.zeros((len(ids), len(names)))
    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for seen, unseen in folder.split(texts, ids, [groups[i] for i in kept]):
        pipeline = fit_baseline([texts[i] for i in seen], ids[seen].tolist())
        probs[np.ix_(unseen, pipeline.classes_)] = pipeline.predict_proba([texts[i] for i in unseen])
    found = []
    for own, place, row_c in zip(ids, kept, probs, strict=True):
        other = int(row_c.argmax())
        if row_c[own] < SUSPICIOUS_BELOW and row_c[other] > SUSPICIOUS_ABOVE:
            row, scores = rows[place], [round(float(row_c[i]), 4) for i in (own, other)]
            start = " ".join(row.example.text.split())[:120]
            found.append(Suspicion(row.place, row.example.label, scores[0], names[other], scores[1], start))
    return sorted(found, key=lambda s: s.probability - s.other_probability), unchecked


def _duplicates(rows: Sequence[LocatedExample], groups: Sequence[int]) -> dict[str, Any]:
    members: dict[int, list[LocatedExample]] = defaultdict(list)
    for number, row in zip(groups, rows, strict=True):
        members[number].append(row)
    copies = [group for group in members.values() if len(group) > 1]
    return {
        "different_texts": len({normalise(r.example.text) for r in rows}),
        "near_duplicate_groups": len(members),
        "rows_with_a_near_duplicate": sum(map(len, copies)),
        "largest_group": max(map(len, members.values())),
        "groups_with_several_labels": [
            {"rows": [r.place for r in group], "labels": [r.example.label for r in group]}
            for group in copies
            if len({r.example.label for r in group}) > 1
        ],
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    return {f"{q:.0%}": round(float(v)) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
