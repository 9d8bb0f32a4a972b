"""Train, validation and test: splitting without leaks, and finding leaks in a given split."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.errors import LabelError
from classifier.labels import Labels
from training.config import DataConfig, TrainConfig
from training.data.duplicates import find_groups
from training.data.files import local_copy
from training.data.read import (
    NEAR_DUPLICATE_COLUMN,
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
class Leak:
    """Rows of split `of` that also occur in split `into`."""

    of: str
    into: str
    exact: int
    """Number of rows with the same words, whatever their case and punctuation."""
    near: int
    """Number of rows whose group has a row in `into`: near-duplicates, and rows that the group column joins."""
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.exact} of {self.rows} {self.of} texts also occur in {self.into} "
            f"({self.near} with near-duplicates and rows of one group)"
        )


@dataclass(frozen=True)
class Splits:
    """Examples for training, validation and test; every label occurs in `train`."""

    train: list[Example]
    val: list[Example]
    test: list[Example]
    labels: Labels
    group_ids: dict[str, list[int]]
    """For each part the group of every row: near-duplicates, and rows that the group column joins."""
    leaks: list[Leak]
    """Groups with rows on several sides of a given split; none if the data were split here."""
    near_duplicates: bool
    """Whether near-duplicates were searched; not if a column names their groups, see `near_duplicates_named`."""

    def __str__(self) -> str:
        """Return one line: how many rows and groups there are, and what joined the rows of a group."""
        columns = ", ".join(map(repr, group_columns(e for _, rows in self.items() for e in rows)))
        joined = f"rows of one group in column {columns} joined" if columns else "no group column"
        searched = "near-duplicates joined" if self.near_duplicates else "near-duplicates not searched"
        return f"{sum(self.sizes().values())} rows in {self.groups} groups ({joined}; {searched})"

    @property
    def near_duplicates_named(self) -> bool:
        """Whether a column `near_dup_group` names the near-duplicate group of every row."""
        return _are_named(e for _, rows in self.items() for e in rows)

    @property
    def groups(self) -> int:
        """Number of different groups."""
        return len({number for ids in self.group_ids.values() for number in ids})

    def items(self) -> list[tuple[str, list[Example]]]:
        return [("train", self.train), ("val", self.val), ("test", self.test)]

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self.items()}


def load_splits(config: TrainConfig) -> Splits:
    """Read the data of a run and split them, or check the split that they come with.

    A directory with train but without val or test has these split off its train. The leaks of given parts are
    returned, not judged; see `refuse_leaks`.

    Raises:
        DataError: files have problems, all of which it lists.
    """
    parts = read_parts(config)
    fractions = {"test": config.test_fraction, "val": config.val_fraction}
    if list(parts) == [WHOLE]:
        fold = (config.fold, config.folds) if config.folds else None
        near_duplicates = config.near_duplicates
        return split(config.data, parts[WHOLE], fractions, config.seed, near_duplicates=near_duplicates, fold=fold)
    if config.folds:
        raise DataError(Problem(config.data, "it has a given split, but folds are made of data in one part"))
    missing = {part: fraction for part, fraction in fractions.items() if part not in parts}
    labels = _labels(config.data, parts["train"])
    ids = group_parts(parts, near_duplicates=config.near_duplicates)
    if missing:
        _take(parts, ids, parts["train"], ids["train"], missing, config.seed)
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
    near = config.near_duplicates and not _are_named(e for rows in parts.values() for e in rows)
    return Splits(**parts, labels=labels, group_ids=ids, leaks=find_leaks(parts, ids), near_duplicates=near)


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
    fold: tuple[int, int] | None = None,
) -> Splits:
    """Split examples by a seed, stratified by label, near-duplicate groups kept whole.

    Args:
        data: name of the data, for messages.
        examples: all examples.
        fractions: fractions of the rows for "test" and "val"; the rest is "train".
        seed: decides the split, together with the rows.
        near_duplicates: search near-duplicates, unless a column `near_dup_group` names the group of every row; exact
            copies and rows of one group are always kept together.
        fold: the number of a fold, counted from 0, and of all folds: the test is this fold, whatever `fractions` says.

    Raises:
        DataError: fewer than two labels, or a label with too few groups for all three splits.
    """
    labels = _labels(data, examples)
    ids = _groups(examples, near_duplicates)
    parts: dict[str, list[Example]] = {}
    group_ids: dict[str, list[int]] = {}
    if fold is None:
        _take(parts, group_ids, examples, ids, fractions, seed)
    else:
        number, folds = fold
        # What the cut leaves for "train" is the last fold.
        test = set(list(_cut(examples, ids, {str(k): 1 / folds for k in range(folds - 1)}, seed).values())[number])
        others = [i for i in range(len(examples)) if i not in test]
        parts["test"], group_ids["test"] = [examples[i] for i in sorted(test)], [ids[i] for i in sorted(test)]
        rest, rest_ids = [examples[i] for i in others], [ids[i] for i in others]
        _take(parts, group_ids, rest, rest_ids, {"val": fractions["val"]}, seed)
    present = {part: {e.label for e in rows} for part, rows in parts.items()}
    missing = {name: [part for part, found in present.items() if name not in found] for name in labels.names}
    problems = [
        f"label {name!r} has too few different texts (near-duplicates and rows of one group count as one) for "
        f"{' and '.join(without)}; add texts, leave it out, or join it with another label"
        for name, without in missing.items()
        if without
    ]
    if problems:
        raise DataError(*(Problem(data, problem) for problem in problems))
    near = near_duplicates and not _are_named(examples)
    return Splits(**parts, labels=labels, group_ids=group_ids, leaks=[], near_duplicates=near)


def group_parts(parts: Mapping[str, Sequence[Example]], *, near_duplicates: bool = True) -> dict[str, list[int]]:
    """Return for each part the group of every row; one group has one number in all parts."""
    ids = iter(_groups([e for examples in parts.values() for e in examples], near_duplicates))
    return {part: list(itertools.islice(ids, len(examples))) for part, examples in parts.items()}


def group_columns(examples: Iterable[Example]) -> list[str]:
    """Return the names of the columns that gave groups."""
    return sorted({e.group_column for e in examples} - {""})


def find_leaks(parts: Mapping[str, Sequence[Example]], group_ids: Mapping[str, Sequence[int]]) -> list[Leak]:
    """Return the leaks of test and val into train and of test into val; pairs without a leak are left out.

    Args:
        parts: the examples of each part.
        group_ids: their groups, see `group_parts`.
    """
    if len(parts) == 1:
        return []
    texts = [e.text for examples in parts.values() for e in examples]
    numbers = iter(find_groups(texts, near=False))
    copies = {part: list(itertools.islice(numbers, len(examples))) for part, examples in parts.items()}
    leaks = []
    for of, into in (("test", "train"), ("val", "train"), ("test", "val")):
        if of in parts and into in parts:
            exact, near = (_shared(ids[of], ids[into]) for ids in (copies, group_ids))
            if near:
                leaks.append(Leak(of, into, exact, near, len(parts[of])))
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
    near = near_duplicates and not _are_named(examples)
    return find_groups([e.text for e in examples], [e.group for e in examples], near=near)


def _are_named(examples: Iterable[Example]) -> bool:
    """Return whether a column names the near-duplicate group of every row."""
    return all(e.group_column == NEAR_DUPLICATE_COLUMN for e in examples)


def _shared(ids: Sequence[int], others: Sequence[int]) -> int:
    known = set(others)
    return sum(number in known for number in ids)


def _take(
    parts: dict[str, list[Example]],
    group_ids: dict[str, list[int]],
    examples: Sequence[Example],
    ids: Sequence[int],
    fractions: Mapping[str, float],
    seed: int,
) -> None:
    """Put the examples and their groups into the parts of `fractions` and into "train"."""
    for part, rows in _cut(examples, ids, fractions, seed).items():
        parts[part] = [examples[i] for i in rows]
        group_ids[part] = [ids[i] for i in rows]


def _cut(
    examples: Sequence[Example], ids: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Move groups of each label to the parts of `fractions` until each part has its share; the rest is "train".

    Returns:
        For each part the places of its examples, in the order of their rows.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(ids):
        members[number].append(place)
    by_label: dict[str, list[list[int]]] = defaultdict(list)
    for group in members.values():
        by_label[Counter(examples[i].label for i in group).most_common(1)[0][0]].append(group)
    parts: dict[str, list[int]] = {name: [] for name in (*fractions, "train")}
    for label in sorted(by_label):
        groups = by_label[label]
        random.Random(f"{seed}:{label}").shuffle(groups)
        sizes = [len(group) for group in groups]
        for place, (name, fraction) in enumerate(fractions.items()):
            share = fraction * sum(sizes)
            # A group too large for a part stays in train; the part must not take most of the other groups instead.
            fitting = sum(size for size in sizes if size <= 1.5 * share) or sum(sizes)
            share = min(share, max(fraction, 0.25) * fitting)
            _deal(groups, parts[name], max(1, round(share)), keep=len(fractions) - place)
        parts["train"] += [i for group in groups for i in group]
    for rows in parts.values():
        rows.sort(key=lambda i: examples[i].row)
    return parts


def _deal(groups: list[list[int]], part: list[int], share: int, keep: int) -> None:
    """Move whole groups from `groups` to `part` until it has its share of rows, or only `keep` groups are left.

    A group that would exceed the share by half is skipped: one story told seventy times belongs in train. If all
    groups are that large, the smallest is moved, so that the part is not empty.
    """
    taken = 0
    skipped: list[list[int]] = []
    while len(groups) + len(skipped) > keep and groups and taken < share:
        group = groups.pop()
        if taken + len(group) > max(1.5 * share, 1):
            skipped.append(group)
        else:
            taken += len(group)
            part += group
    groups += skipped
    if not taken and len(groups) > keep:
        smallest = min(range(len(groups)), key=lambda i: len(groups[i]))
        part += groups.pop(smallest)


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
