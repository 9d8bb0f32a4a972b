"""Train, validation and test: splitting without leaks, and finding the leaks of a split that was given."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from classifier.errors import LabelError
from classifier.labels import Labels
from training.data.duplicates import find_groups, near_duplicate_pairs, normalise
from training.data.folders import class_files, data_files, read_class_folders, read_folder
from training.data.read import SUFFIXES, Columns, Example, read_examples
from training.errors import DataError, LeakError, Problem

SPLIT_NAMES = {
    "train": ("train",),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test",),
}


WHOLE = ""
"""The only part of data that come without a split."""


@dataclass(frozen=True)
class Splits:
    """Three lists of examples, each with at least one example of each label in `train`."""

    train: list[Example]
    val: list[Example]
    test: list[Example]
    labels: Labels
    groups: int
    """Near-duplicate groups over all three; 0 if the splits were given as files."""

    def items(self) -> list[tuple[str, list[Example]]]:
        return [("train", self.train), ("val", self.val), ("test", self.test)]

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self.items()}


@dataclass(frozen=True)
class Leak:
    """Rows of split `of` that also stand in split `into`."""

    of: str
    into: str
    exact: int
    """Rows whose words are the same, case and punctuation aside."""
    near: int
    """Rows that are the same or share most of their word 5-grams with a row of `into`."""
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.exact} of {self.rows} {self.of} texts also stand in {self.into} "
            f"({self.near} if near-duplicates count)"
        )


def load_splits(
    path: Path,
    columns: Columns | None = None,
    *,
    encoding: str = "utf-8",
    val_fraction: float,
    test_fraction: float,
    seed: int,
    near_duplicates: bool = True,
) -> tuple[Splits, list[Leak]]:
    """Read one file, or a folder a label, and split it; or read a directory with train, val and test files or folders.

    A directory without val or test has them split off its train. The leaks of given parts are returned, not judged:
    see `refuse_leaks`.

    Raises:
        DataError: with every problem of every file.
    """
    given = read_parts(path, columns, encoding=encoding)
    if list(given) == [WHOLE]:
        fractions = {"test": test_fraction, "val": val_fraction}
        return split(path, given[WHOLE], fractions, seed, near_duplicates=near_duplicates), []
    fractions = {"test": test_fraction, "val": val_fraction}
    missing = {part: fraction for part, fraction in fractions.items() if part not in given}
    labels = _labels(path, given["train"])
    if missing:
        given |= _cut(given["train"], _groups(given["train"], near_duplicates), missing, seed)
        for part in missing:
            if not given[part]:
                problem = f"train has too few different texts to take {part} from"
                raise DataError([Problem(str(path), 0, 0, "", problem)])
    _check_labels(path, labels, {part: given[part] for part in fractions})
    splits = Splits(given["train"], given["val"], given["test"], labels, groups=0)
    return splits, find_leaks(dict(splits.items()), near_duplicates=near_duplicates)


def read_parts(path: Path, columns: Columns | None = None, *, encoding: str = "utf-8") -> dict[str, list[Example]]:
    """What stands in a file or directory, unsplit: {WHOLE: examples}, or a given split's parts by name.

    Raises:
        DataError: with every problem of every file.
    """
    if path.is_file():
        return {WHOLE: read_examples(path, columns, encoding=encoding)}
    if path.is_dir() and not _split_files(path, "train") and class_files(path):
        return {WHOLE: read_class_folders(path, encoding=encoding)}
    return _read_given(path, columns, encoding)


def split(
    path: Path, examples: Sequence[Example], fractions: Mapping[str, float], seed: int, *, near_duplicates: bool = True
) -> Splits:
    """Split examples: seeded, stratified by label, near-duplicate groups kept whole.

    Args:
        path: for messages.
        examples: all of them.
        fractions: of the rows for "test" and "val"; the rest is "train".
        seed: decides the split, together with the rows.
        near_duplicates: look for them where the rows have no groups; exact copies are always kept together.

    Raises:
        DataError: fewer than two labels, or a label with too few groups to stand in all three splits.
    """
    labels = _labels(path, examples)
    ids = _groups(examples, near_duplicates)
    parts = _cut(examples, ids, fractions, seed)
    problems = [
        Problem(
            str(path),
            0,
            0,
            "",
            f"label {name!r} has too few different texts (near-duplicates are one) to stand in {part}",
        )
        for name in labels.names
        for part, rows in parts.items()
        if not any(e.label == name for e in rows)
    ]
    if problems:
        raise DataError(problems)
    return Splits(parts["train"], parts["val"], parts["test"], labels, groups=len(set(ids)))


def find_leaks(splits: Mapping[str, Sequence[Example]], *, near_duplicates: bool = True) -> list[Leak]:
    """What of val and test stands in train, and what of test in val; pairs without a leak are left out."""
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
    """Raises LeakError that says what leaks, if anything does."""
    if leaks:
        raise LeakError(
            "the given split leaks: "
            + "; ".join(map(str, leaks))
            + ". A score on it says little about new texts. Join the files into one and let this command split them, "
            "or go on as they are with --allow-leaks"
        )


def _groups(examples: Sequence[Example], near_duplicates: bool) -> list[int]:
    return find_groups([e.text for e in examples], [e.group for e in examples], near=near_duplicates)


def _cut(
    examples: Sequence[Example], ids: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[Example]]:
    """Deal the groups of each label out to the parts of `fractions` until each has its share; the rest is "train"."""
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

    A group that would overshoot the share by half is passed over: one story told seventy times belongs in train.
    """
    taken = 0
    passed_over: list[list[Example]] = []
    while len(groups) + len(passed_over) > 1 and groups and taken < share:
        group = groups.pop()
        if taken + len(group) > max(1.5 * share, 1):
            passed_over.append(group)
        else:
            taken += len(group)
            part += group
    groups += passed_over


def _read_given(path: Path, columns: Columns | None, encoding: str) -> dict[str, list[Example]]:
    if not path.is_dir():
        raise DataError([Problem(str(path), 0, 0, "", "no such file or directory")])
    problems: list[Problem] = []
    given: dict[str, list[Example]] = {}
    for part in SPLIT_NAMES:
        places = _split_files(path, part)
        if len(places) > 1:
            names = ", ".join(place.name for place in places)
            problems.append(Problem(str(path), 0, 0, "", f"several {part} files: {names}; keep one"))
        elif not places and part == "train":
            needed = "train.csv, .tsv, .jsonl or .parquet, or a folder train with such files"
            problems.append(Problem(str(path), 0, 0, "", f"no train file ({needed})"))
        elif places:
            read = read_folder if places[0].is_dir() else read_examples
            try:
                given[part] = read(places[0], columns, encoding=encoding)
            except DataError as exc:
                problems += exc.problems
    if problems:
        raise DataError(problems)
    return given


def _split_files(path: Path, part: str) -> list[Path]:
    """The part's file, or its folder of data files or of labels; a folder of bare texts is a label of that name."""
    return sorted(
        p
        for p in path.iterdir()
        if p.stem.lower() in SPLIT_NAMES[part]
        and (p.suffix.lower() in SUFFIXES if p.is_file() else bool(data_files(p) or class_files(p)))
    )


def _labels(path: Path, examples: Sequence[Example]) -> Labels:
    try:
        return Labels.from_values(e.label for e in examples)
    except LabelError as exc:
        raise DataError([Problem(str(path), 0, 0, "", str(exc))]) from exc


def _check_labels(path: Path, labels: Labels, parts: Mapping[str, Sequence[Example]]) -> None:
    problems = [
        Problem(f"{path} ({part})", e.row, 0, "", f"label {e.label!r} does not occur in train")
        for part, examples in parts.items()
        for e in examples
        if e.label not in labels.label2id
    ]
    if problems:
        raise DataError(problems)
