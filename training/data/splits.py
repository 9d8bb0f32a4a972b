"""Train, validation and test: splitting without leaks, and finding leaks in a given split."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.errors import LabelError
from classifier.labels import Labels
from training.config import DataConfig, TrainConfig
from training.data.duplicates import find_groups, near_duplicate_pairs, normalise
from training.data.files import local_copy
from training.data.read import (
    SUFFIXES,
    Example,
    class_files,
    data_files,
    read_class_folders,
    read_examples,
    read_folder,
)
from training.errors import DataError, LeakError, Problem

SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}


WHOLE = ""
"""Name of the only part of data without a given split."""


@dataclass(frozen=True)
class Splits:
    """Examples for training, validation and test; every label occurs in `train`."""

    train: list[Example]
    val: list[Example]
    test: list[Example]
    labels: Labels
    groups: int
    """Number of near-duplicate groups in all three; 0 if the splits were given as files."""

    def items(self) -> list[tuple[str, list[Example]]]:
        return [("train", self.train), ("val", self.val), ("test", self.test)]

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self.items()}


@dataclass(frozen=True)
class Leak:
    """Rows of split `of` that also occur in split `into`."""

    of: str
    into: str
    exact: int
    """Number of rows with the same words, whatever their case and punctuation."""
    near: int
    """Number of rows that are the same or share most of their word 5-grams with a row of `into`."""
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.exact} of {self.rows} {self.of} texts also occur in {self.into} ({self.near} with near-duplicates)"
        )


def load_splits(config: TrainConfig) -> tuple[Splits, list[Leak]]:
    """Read the data of a run and split them, or check the split that they come with.

    A directory with train but without val or test has these split off its train. The leaks of given parts are
    returned, not judged; see `refuse_leaks`.

    Raises:
        DataError: files have problems, all of which it lists.
    """
    parts = read_parts(config)
    fractions = {"test": config.test_fraction, "val": config.val_fraction}
    if list(parts) == [WHOLE]:
        return split(config.data, parts[WHOLE], fractions, config.seed, near_duplicates=config.near_duplicates), []
    missing = {part: fraction for part, fraction in fractions.items() if part not in parts}
    labels = _labels(config.data, parts["train"])
    if missing:
        parts |= _cut(parts["train"], _groups(parts["train"], config.near_duplicates), missing, config.seed)
        empty = [part for part in missing if not parts[part]]
        if empty:
            raise DataError(Problem(config.data, f"train has too few different texts to split off {empty[0]}"))
    unknown = [
        Problem(f"{config.data} ({part})", f"label {e.label!r} does not occur in train", e.row)
        for part in fractions
        for e in parts[part]
        if e.label not in labels.label2id
    ]
    if unknown:
        raise DataError(*unknown)
    splits = Splits(parts["train"], parts["val"], parts["test"], labels, groups=0)
    return splits, find_leaks(dict(splits.items()), near_duplicates=config.near_duplicates)


def read_parts(config: DataConfig) -> dict[str, list[Example]]:
    """Read the data unsplit: {WHOLE: examples}, or the parts of a given split by name.

    Raises:
        DataError: files have problems, all of which it lists.
    """
    with local_copy(config.data) as path:
        if path.is_file():
            return {WHOLE: read_examples(path, config)}
        if path.is_dir() and not _split_files(path, "train") and class_files(path):
            return {WHOLE: read_class_folders(path, config.encoding)}
        return _read_given(path, config)


def split(
    data: str,
    examples: Sequence[Example],
    fractions: Mapping[str, float],
    seed: int,
    *,
    near_duplicates: bool = True,
) -> Splits:
    """Split examples by a seed, stratified by label, near-duplicate groups kept whole.

    Args:
        data: name of the data, for messages.
        examples: all examples.
        fractions: fractions of the rows for "test" and "val"; the rest is "train".
        seed: decides the split, together with the rows.
        near_duplicates: compute near-duplicate groups of rows without a group; exact copies are always kept together.

    Raises:
        DataError: fewer than two labels, or a label with too few groups for all three splits.
    """
    labels = _labels(data, examples)
    ids = _groups(examples, near_duplicates)
    parts = _cut(examples, ids, fractions, seed)
    problems = [
        Problem(data, f"label {name!r} has too few different texts (near-duplicates count as one) for {part}")
        for name in labels.names
        for part, rows in parts.items()
        if not any(e.label == name for e in rows)
    ]
    if problems:
        raise DataError(*problems)
    return Splits(parts["train"], parts["val"], parts["test"], labels, groups=len(set(ids)))


def find_leaks(splits: Mapping[str, Sequence[Example]], *, near_duplicates: bool = True) -> list[Leak]:
    """Return the leaks of test and val into train and of test into val; pairs without a leak are left out."""
    words = {name: [normalise(e.text) for e in examples] for name, examples in splits.items()}
    leaks = []
    for of, into in (("test", "train"), ("val", "train"), ("test", "val")):
        if of not in words or into not in words:
            continue
        known = set(words[into])
        exact = {i for i, text in enumerate(words[of]) if text in known}
        offset = len(words[into])
        pairs = near_duplicate_pairs([*words[into], *words[of]]) if near_duplicates else []
        near = {b - offset for a, b in pairs if a < offset <= b}
        if exact or near:
            leaks.append(Leak(of, into, len(exact), len(exact | near), len(words[of])))
    return leaks


def refuse_leaks(leaks: Sequence[Leak]) -> None:
    """Refuse a split that leaks.

    Raises:
        LeakError: there are leaks; the message lists them.
    """
    if leaks:
        raise LeakError(
            f"the given split leaks: {'; '.join(map(str, leaks))}. A score on it says little about new texts. Join the "
            "files into one and let this command split it, or use them as they are with --allow-leaks"
        )


def _groups(examples: Sequence[Example], near_duplicates: bool) -> list[int]:
    return find_groups([e.text for e in examples], [e.group for e in examples], near=near_duplicates)


def _cut(
    examples: Sequence[Example], ids: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[Example]]:
    """Move groups of each label to the parts of `fractions` until each part has its share; the rest is "train"."""
    members: dict[int, list[Example]] = defaultdict(list)
    for number, example in zip(ids, examples, strict=True):
        members[number].append(example)
    by_label: dict[str, list[list[Example]]] = defaultdict(list)
    for group in members.values():
        by_label[Counter(e.label for e in group).most_common(1)[0][0]].append(group)
    parts: dict[str, list[Example]] = {name: [] for name in (*fractions, "train")}
    for label in sorted(by_label):
        groups = by_label[label]
        random.Random(f"{seed}:{label}").shuffle(groups)
        total = sum(map(len, groups))
        for name, fraction in fractions.items():
            _deal(groups, parts[name], max(1, round(fraction * total)))
        parts["train"] += [e for group in groups for e in group]
    for rows in parts.values():
        rows.sort(key=lambda e: e.row)
    return parts


def _deal(groups: list[list[Example]], part: list[Example], share: int) -> None:
    """Move whole groups from `groups` to `part` until it has its share of rows, or one group is left.

    A group that would exceed the share by half is skipped: one story told seventy times belongs in train.
    """
    taken = 0
    skipped: list[list[Example]] = []
    while len(groups) + len(skipped) > 1 and groups and taken < share:
        group = groups.pop()
        if taken + len(group) > max(1.5 * share, 1):
            skipped.append(group)
        else:
            taken += len(group)
            part += group
    groups += skipped


def _read_given(path: Path, config: DataConfig) -> dict[str, list[Example]]:
    if not path.is_dir():
        raise DataError(Problem(path, "no such file or directory"))
    problems: list[Problem] = []
    given: dict[str, list[Example]] = {}
    for part in SPLIT_NAMES:
        places = _split_files(path, part)
        if len(places) > 1:
            problems.append(Problem(path, f"several {part} files: {', '.join(p.name for p in places)}; keep one"))
        elif not places and part == "train":
            needed = "train.csv, .tsv, .jsonl or .parquet, or a folder train with such files"
            problems.append(Problem(path, f"no train file ({needed})"))
        elif places:
            read = read_folder if places[0].is_dir() else read_examples
            try:
                given[part] = read(places[0], config)
            except DataError as exc:
                problems += exc.problems
    if problems:
        raise DataError(*problems)
    return given


def _split_files(path: Path, part: str) -> list[Path]:
    """Return the files of a part, and its folders of data files or of labels.

    A folder that holds only texts is left out, because it is a label that is named like a part.
    """
    return sorted(
        p
        for p in path.iterdir()
        if p.stem.lower() in SPLIT_NAMES[part]
        and (p.suffix.lower() in SUFFIXES if p.is_file() else bool(data_files(p) or class_files(p)))
    )


def _labels(data: str, examples: Sequence[Example]) -> Labels:
    try:
        return Labels.from_values(e.label for e in examples)
    except LabelError as exc:
        raise DataError(Problem(data, str(exc))) from exc
