"""What a person should know of labelled texts before training on them, as one page of Markdown and one JSON file."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.baseline import fit_baseline
from training.data import Columns, Example, fingerprint
from training.duplicates import find_groups, normalise
from training.errors import ConfigError
from training.splits import Splits, load_splits

FOLDS = 5
SUSPICIOUS_BELOW = 0.1
"""A label is suspicious where a baseline that never saw the text finds it less probable than this ..."""
SUSPICIOUS_ABOVE = 0.6
"""... and another one more probable than this."""
SHOWN = 50
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Suspicion:
    """A text whose label a baseline trained on the others finds improbable."""

    part: str
    row: int
    label: str
    probability: float
    other: str
    other_probability: float
    text: str


def report_data(path: Path, output: Path, columns: Columns | None = None, *, encoding: str = "utf-8") -> dict[str, Any]:
    """Write `data.md` and `data.json`.

    Args:
        path: as `training.splits.load_splits` takes it.
        output: directory for the two, made if needed.
        columns: where text, label, title and group stand.
        encoding: of text files.

    Returns:
        What `data.json` holds.

    Raises:
        DataError: with every problem of the data.
        ConfigError: the output cannot be written.
    """
    splits, leaks = load_splits(path, columns, encoding=encoding, val_fraction=0.1, test_fraction=0.1, seed=0)
    given = splits.groups == 0
    examples = [e for _, part in splits.items() for e in part]
    parts = [name for name, part in splits.items() for _ in part]
    groups = find_groups([e.text for e in examples], [e.group for e in examples])
    facts = {
        "data": path.name,
        "fingerprint": fingerprint(examples),
        "rows": len(examples),
        "parts": splits.sizes() if given else {},
        "labels": dict(Counter(e.label for e in examples).most_common()),
        "words": _quantiles([len(e.text.split()) for e in examples]),
        "characters": _quantiles([len(e.text) for e in examples]),
        **_duplicates(examples, groups),
        "leaks": [str(leak) for leak in leaks],
        "suspicious": [vars(s) for s in suspicious_labels(splits, examples, parts, groups)],
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "data.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (output / "data.md").write_text(_page(facts), encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{output}: cannot be written: {exc}") from exc
    return facts


def suspicious_labels(
    splits: Splits, examples: Sequence[Example], parts: Sequence[str], groups: Sequence[int]
) -> list[Suspicion]:
    """Texts whose label TF-IDF + logistic regression, trained on other groups, finds improbable; worst first.

    After C. Northcutt and others, "Confident Learning", JAIR 2021: what a model says about texts it was not trained on.
    Some of these are mistakes of the data, others are just hard.
    """
    ids = np.array([splits.labels.id_of(e.label) for e in examples])
    texts = [e.text for e in examples]
    folds = min(FOLDS, *Counter(dict(set(zip(groups, ids.tolist(), strict=True))).values()).values())
    if folds < 2:
        return []
    probs = np.zeros((len(ids), len(splits.labels)))
    for seen, unseen in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(texts, ids, groups):
        pipeline = fit_baseline([texts[i] for i in seen], ids[seen].tolist())
        probs[np.ix_(unseen, pipeline.classes_)] = pipeline.predict_proba([texts[i] for i in unseen])
    found = []
    names = splits.labels.names
    for i, row in enumerate(probs):
        other = int(row.argmax())
        if row[ids[i]] < SUSPICIOUS_BELOW and row[other] > SUSPICIOUS_ABOVE:
            e = examples[i]
            scores = round(float(row[ids[i]]), 4), round(float(row[other]), 4)
            found.append(
                Suspicion(parts[i], e.row, e.label, scores[0], names[other], scores[1], " ".join(e.text.split())[:120])
            )
    return sorted(found, key=lambda s: s.probability - s.other_probability)


def _duplicates(examples: Sequence[Example], groups: Sequence[int]) -> dict[str, Any]:
    members: dict[int, list[Example]] = defaultdict(list)
    for number, example in zip(groups, examples, strict=True):
        members[number].append(example)
    copies = [group for group in members.values() if len(group) > 1]
    return {
        "different_texts": len({normalise(e.text) for e in examples}),
        "near_duplicate_groups": len(members),
        "rows_with_a_near_duplicate": sum(map(len, copies)),
        "largest_group": max(map(len, members.values())),
        "groups_with_several_labels": [
            {"rows": [e.row for e in group], "labels": [e.label for e in group]}
            for group in copies
            if len({e.label for e in group}) > 1
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
        f"- rows {', '.join(map(str, group['rows']))}: {_cell(', '.join(group['labels']))}"
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
            f"| {s['part'] + ' ' if facts['parts'] else ''}{s['row']} | {_cell(s['label'])} | {s['probability']:.1%} | "
            f"{_cell(s['other'])} | {s['other_probability']:.1%} | {_cell(s['text'])} |"
            for s in suspicious[:SHOWN]
        ]
    else:
        lines.append("None.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
