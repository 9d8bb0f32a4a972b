"""What a person should know of labelled texts before training on them, as one page of Markdown and one JSON file."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.data.duplicates import find_groups, normalise
from training.data.read import Columns, Example, fingerprint
from training.data.splits import WHOLE, find_leaks, read_parts
from training.errors import ConfigError
from training.report.baseline import fit_baseline

FOLDS = 5
SUSPICIOUS_BELOW = 0.1
"""A label is suspicious where a baseline that never saw the text finds it less probable than this ..."""
SUSPICIOUS_ABOVE = 0.6
"""... and another one more probable than this."""
MIN_GROUPS = 2
"""A label of fewer stories cannot be learnt from some and checked on another."""
SHOWN = 50
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Row:
    """An example and the part of a given split that it stands in."""

    part: str
    example: Example

    @property
    def name(self) -> str:
        return f"{self.part} {self.example.row}".strip()


@dataclass(frozen=True)
class Suspicion:
    """A text whose label a baseline trained on the others finds improbable."""

    row: str
    label: str
    probability: float
    other: str
    other_probability: float
    text: str


def report_data(path: Path, output: Path, columns: Columns | None = None, *, encoding: str = "utf-8") -> dict[str, Any]:
    """Write `data.md` and `data.json`.

    Args:
        path: as `training.data.splits.read_parts` takes it.
        output: directory for the two, made if needed.
        columns: where text, label, title and group stand.
        encoding: of text files.

    Returns:
        What `data.json` holds.

    Raises:
        DataError: with every problem of the data.
        ConfigError: the output cannot be written.
    """
    parts = read_parts(path, columns, encoding=encoding)
    rows = [Row(part, example) for part, examples in parts.items() for example in examples]
    groups = find_groups([r.example.text for r in rows], [r.example.group for r in rows])
    suspicious, unchecked = suspicious_labels(rows, groups)
    facts = {
        "data": path.name,
        "fingerprint": fingerprint(r.example for r in rows),
        "rows": len(rows),
        "parts": {part: len(examples) for part, examples in parts.items() if part != WHOLE},
        "labels": dict(Counter(r.example.label for r in rows).most_common()),
        "words": _quantiles([len(r.example.text.split()) for r in rows]),
        "characters": _quantiles([len(r.example.text) for r in rows]),
        **_duplicates(rows, groups),
        "leaks": [str(leak) for leak in find_leaks(parts)],
        "suspicious": [vars(s) for s in suspicious],
        "labels_not_checked": unchecked,
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "data.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / "data.md").write_text(_page(facts), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{output}: cannot be written: {exc}") from exc
    return facts


def suspicious_labels(rows: Sequence[Row], groups: Sequence[int]) -> tuple[list[Suspicion], list[str]]:
    """Texts whose label TF-IDF + logistic regression, trained on other groups, finds improbable; worst first.

    After C. Northcutt and others, "Confident Learning", JAIR 2021: what a model says about texts it was not trained on.
    Some of these are mistakes of the data, others are just hard.

    Returns:
        The texts, and the labels that stand in too few groups to be checked so.
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
            found.append(Suspicion(row.name, row.example.label, scores[0], names[other], scores[1], start))
    return sorted(found, key=lambda s: s.probability - s.other_probability), unchecked


def _duplicates(rows: Sequence[Row], groups: Sequence[int]) -> dict[str, Any]:
    members: dict[int, list[Row]] = defaultdict(list)
    for number, row in zip(groups, rows, strict=True):
        members[number].append(row)
    copies = [group for group in members.values() if len(group) > 1]
    return {
        "different_texts": len({normalise(r.example.text) for r in rows}),
        "near_duplicate_groups": len(members),
        "rows_with_a_near_duplicate": sum(map(len, copies)),
        "largest_group": max(map(len, members.values())),
        "groups_with_several_labels": [
            {"rows": [r.name for r in group], "labels": [r.example.label for r in group]}
            for group in copies
            if len({r.example.label for r in group}) > 1
        ],
    }


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    return {f"{q:.0%}": round(float(v)) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def _page(facts: dict[str, Any]) -> str:
    rows = facts["rows"]
    lines = [
        f"# {facts['data']}",
        "",
        f"{rows} rows, {facts['different_texts']} different texts (case and punctuation aside) in "
        f"{facts['near_duplicate_groups']} near-duplicate groups; {facts['rows_with_a_near_duplicate']} rows have a "
        f"near-duplicate, the largest group has {facts['largest_group']}. SHA-256 of the labelled texts: "
        f"`{facts['fingerprint']}`.",
        "",
    ]
    if facts["parts"]:
        lines += ["Given split: " + ", ".join(f"{part} {count}" for part, count in facts["parts"].items()) + ".", ""]
    lines += ["| label | rows | |", "| --- | ---: | ---: |"]
    lines += [f"| {_cell(name)} | {count} | {count / rows:.1%} |" for name, count in facts["labels"].items()]
    lines += ["", "| | " + " | ".join(facts["words"]) + " |", "| --- |" + " ---: |" * len(facts["words"])]
    lines += ["| " + " | ".join([unit, *map(str, facts[unit].values())]) + " |" for unit in ("words", "characters")]
    lines += ["", "## Leaks", ""]
    lines += [f"- {leak}" for leak in facts["leaks"]] or [
        "None." if facts["parts"] else "One file: it is split by groups, so that near-duplicates stay together."
    ]
    lines += ["", "## The same story under several labels", ""]
    lines += [
        f"- rows {', '.join(group['rows'])}: {_cell(', '.join(group['labels']))}"
        for group in facts["groups_with_several_labels"][:SHOWN]
    ] or ["None."]
    suspicious = facts["suspicious"]
    lines += ["", "## Suspicious labels", ""]
    if suspicious:
        lines += [
            f"{len(suspicious)} texts whose label TF-IDF + logistic regression, trained on the others, finds less "
            f"probable than {SUSPICIOUS_BELOW:.0%}, and another one more probable than {SUSPICIOUS_ABOVE:.0%}. Some "
            "are mistakes of the data, others are just hard. The worst:",
            "",
            "| row | label | | rather | | text |",
            "| --- | --- | ---: | --- | ---: | --- |",
        ]
        lines += [
            f"| {s['row']} | {_cell(s['label'])} | {s['probability']:.1%} | "
            f"{_cell(s['other'])} | {s['other_probability']:.1%} | {_cell(s['text'])} |"
            for s in suspicious[:SHOWN]
        ]
    else:
        lines.append("None.")
    if facts["labels_not_checked"]:
        lines += ["", f"Not checked, too few texts: {_cell(', '.join(facts['labels_not_checked']))}."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
