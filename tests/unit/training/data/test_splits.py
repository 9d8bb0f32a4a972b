import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.texts import news_rows
from training.config import TrainConfig
from training.data.read import Example, read_examples
from training.data.splits import Splits, find_leaks, group_parts, load_splits, refuse_leaks, split
from training.errors import DataError, LeakError

HERE = "d.csv"


def load(data: Path, **settings: float) -> Splits:
    return load_splits(TrainConfig(data=str(data), seed=1, **settings))  # type: ignore[arg-type]


def examples(count: int, *, labels: int = 3, groups: int | None = None) -> list[Example]:
    names = [None if groups is None else str(i % groups) for i in range(count)]
    return [Example(row["text"], str(i % labels), names[i], i + 1) for i, row in enumerate(news_rows(count))]


@settings(deadline=None)  # a busy machine is no error
@given(st.integers(0, 5), st.integers(60, 150), st.sampled_from([None, 30, 45]))
def test_no_group_crosses_the_split_and_no_row_is_lost(seed: int, count: int, groups: int | None) -> None:
    rows = examples(count, groups=groups)
    splits = split(HERE, rows, {"test": 0.2, "val": 0.2}, seed)
    assert sorted(e.row for _, part in splits.items() for e in part) == [e.row for e in rows]
    numbers = [set(ids) for ids in splits.group_ids.values()]
    assert splits.groups == sum(map(len, numbers)) == len(set().union(*numbers))
    assert {part: len(ids) for part, ids in splits.group_ids.items()} == splits.sizes()
    if groups:
        seen = [{e.group for e in part} for _, part in splits.items()]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_split_is_stratified_and_has_the_sizes_asked_for() -> None:
    splits = split(HERE, examples(300), {"test": 0.2, "val": 0.1}, 1)
    assert splits.sizes() == {"train": 210, "val": 30, "test": 60}
    assert set(Counter(e.label for e in splits.test).values()) == {20}


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(60, 150), st.sampled_from([None, 30, 45]), st.integers(2, 5))
def test_every_row_is_in_the_test_of_one_fold(seed: int, count: int, groups: int | None, folds: int) -> None:
    rows = examples(count, groups=groups)
    made = [split(HERE, rows, {"test": 0.1, "val": 0.1}, seed, fold=(fold, folds)) for fold in range(folds)]
    assert sorted(e.row for splits in made for e in splits.test) == [e.row for e in rows]
    for splits in made:
        numbers = [set(ids) for ids in splits.group_ids.values()]
        assert splits.groups == sum(map(len, numbers)), "no group crosses the split"
        assert sorted(e.row for _, part in splits.items() for e in part) == [e.row for e in rows]
        assert len(splits.test) < 1.6 * count / folds and splits.val


def test_folds_of_a_given_split_are_refused(tmp_path: Path) -> None:
    write_given(tmp_path, train=examples(30))
    with pytest.raises(DataError, match="given split"):
        load(tmp_path, folds=2)


def test_seed_decides_the_split_and_row_order_does_not_break_it() -> None:
    rows = examples(90)
    first = split(HERE, rows, {"test": 0.2, "val": 0.2}, 1)
    assert first == split(HERE, rows, {"test": 0.2, "val": 0.2}, 1)
    assert first.test != split(HERE, rows, {"test": 0.2, "val": 0.2}, 2).test


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (examples(20, labels=1), r"at least two labels, got \['0'\]"),
        (
            [*examples(30, labels=2), Example("a text of its own", "rare", None, 99)],
            r"^1 problem in the data:\n.* 'rare' has too few different texts .* for test and val; add texts",
        ),
    ],
    ids=["one-label", "rare-label"],
)
def test_labels_that_cannot_be_split_are_refused(rows: list[Example], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(HERE, rows, {"test": 0.2, "val": 0.2}, 1)


def test_large_group_goes_to_train_rather_than_overshoot_its_share() -> None:
    rows = examples(300, labels=2)
    rows = [Example(e.text, e.label, "one story" if e.row <= 200 and e.label == "0" else None, e.row) for e in rows]
    for seed in range(8):
        splits = split(HERE, rows, {"test": 0.1, "val": 0.1}, seed)
        assert 10 <= sum(e.label == "0" for e in splits.test) <= 23
        assert sum(e.group == "one story" for e in splits.train) == 100


def test_large_group_leaves_most_other_groups_of_its_label_to_train() -> None:
    spam = [Example(f"spam {i}", "spam", "copies" if i < 300 else None, i) for i in range(330)]
    other = [Example(f"note {i}", "note", None, 330 + i) for i in range(330)]
    made = split("data", [*spam, *other], {"test": 0.1, "val": 0.1}, 0)
    assert [sum(e.label == "spam" for e in part) for _, part in made.items()] == [314, 8, 8]


def test_small_labels_get_a_row_in_each_part() -> None:
    splits = split(HERE, examples(9), {"test": 0.1, "val": 0.1}, 0)
    assert splits.sizes() == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("size", [2, 3, 30])
def test_labels_whose_groups_are_all_large_get_a_group_in_each_part(size: int) -> None:
    rows = [Example(f"{label} {i}", label, f"{label} {i // size}", i) for label in "ab" for i in range(3 * size)]
    splits = split(HERE, rows, {"test": 0.1, "val": 0.1}, 1)
    assert splits.sizes() == {"train": 2 * size, "val": 2 * size, "test": 2 * size}


def test_test_part_leaves_a_group_for_val_and_train() -> None:
    splits = split(HERE, examples(6, labels=2), {"test": 0.5, "val": 0.1}, 1)
    assert splits.sizes() == {"train": 2, "val": 2, "test": 2}


def test_column_group_does_not_end_the_search_of_near_duplicates(tmp_path: Path) -> None:
    rows = examples(30)
    texts = [*(e.text for e in rows), rows[0].text + " One more thing happened."]
    found = {}
    for column in ("group", "near_dup_group"):
        lines = [json.dumps({"text": t, "label": str(i % 3), column: i // 2}) for i, t in enumerate(texts)]
        (tmp_path / f"{column}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        for near in (True, False):
            splits = load(tmp_path / f"{column}.jsonl", near_duplicates=near)
            found[column, near] = (splits.groups, splits.near_duplicates)
            assert f"31 rows in {splits.groups} groups (rows of one group in column '{column}' joined" in str(splits)
    assert found == {
        ("group", True): (15, True),
        ("group", False): (16, False),
        ("near_dup_group", True): (16, False),
        ("near_dup_group", False): (16, False),
    }


def test_train_too_small_to_take_val_from_says_so(tmp_path: Path) -> None:
    rows = [Example(f"words of {label}", label, None, i) for i, label in enumerate("012")]
    write_given(tmp_path, train=rows, test=examples(6))
    with pytest.raises(DataError, match="too few different texts to split off val"):
        load(tmp_path)


def write_given(directory: Path, **parts: list[Example]) -> Path:
    for name, rows in parts.items():
        lines = [json.dumps({"text": e.text, "label": e.label}) for e in rows]
        (directory / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return directory


def test_folder_a_label_is_read_and_split(tmp_path: Path) -> None:
    for row in news_rows(60):
        folder = tmp_path / row["label"]
        folder.mkdir(exist_ok=True)
        (folder / f"{abs(hash(row['text']))}.txt").write_text(row["text"], encoding="utf-8")
    (tmp_path / "README.md").touch()
    (tmp_path / "sport" / ".hidden.txt").touch()
    splits = load(tmp_path, val_fraction=0.2, test_fraction=0.2)
    assert splits.labels.names == ("business", "politics", "sport") and splits.leaks == []
    assert splits.sizes() == {"train": 36, "val": 12, "test": 12}


def test_problems_of_a_folder_a_label_come_together(tmp_path: Path) -> None:
    for name, content in (("a/1.txt", b"fine"), ("a/2.txt", b" "), ("b/1.txt", b"\xff")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path, val_fraction=0.2, test_fraction=0.2)
    assert [Path(p.file).parent.name for p in caught.value.problems] == ["a", "b"]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (
            {"train": slice(40), "validation": slice(40, 50), "test": slice(50, 60)},
            {"train": 40, "val": 10, "test": 10},
        ),
        ({"train": slice(45), "test": slice(45, 60)}, {"train": 36, "val": 9, "test": 15}),
        ({"train": slice(60)}, {"train": 42, "val": 12, "test": 6}),
    ],
)
def test_given_parts_stay_and_missing_ones_are_split_off_train(
    tmp_path: Path, parts: dict[str, slice], sizes: dict[str, int]
) -> None:
    write_given(tmp_path, **{name: examples(60)[rows] for name, rows in parts.items()})
    splits = load(tmp_path, val_fraction=0.2)
    assert splits.sizes() == sizes and splits.leaks == []


def test_parts_may_be_folders_of_files_of_several_formats(tmp_path: Path) -> None:
    rows = examples(60)
    for part, chosen in {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}.items():
        (tmp_path / part / "more").mkdir(parents=True)
        (tmp_path / part / "_SUCCESS").touch()
        lines = [json.dumps({"text": e.text, "label": e.label}) for e in chosen]
        (tmp_path / part / "a.jsonl").write_text("\n".join(lines[:5]), encoding="utf-8")
        with (tmp_path / part / "more" / "b.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["category", "text"])
            writer.writerows((e.label, e.text) for e in chosen[5:])
    splits = load(tmp_path)
    assert [e.text for e in splits.train] == [e.text for e in rows[:40]]
    assert splits.sizes() == {"train": 40, "val": 10, "test": 10}
    (tmp_path / "train" / "b.txt").write_text("text", encoding="utf-8")
    (tmp_path / "train" / "c.csv").write_text("text,label\n,x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)b\.txt: unknown format '\.txt'.*c\.csv, row 1"):
        load(tmp_path)


def test_leaks_are_counted_and_refused(tmp_path: Path) -> None:
    rows = examples(60)
    near = Example(rows[0].text + " One more thing happened.", rows[0].label, None, 1)
    write_given(tmp_path, train=rows[:40], val=rows[40:50], test=[*rows[50:], rows[1], near])
    leaks = load(tmp_path).leaks
    assert [(leak.of, leak.into, leak.exact, leak.near, leak.rows) for leak in leaks] == [("test", "train", 1, 2, 12)]
    with pytest.raises(
        LeakError, match=r"1 of 12 test texts also occur in train \(2 with near-duplicates and rows of one group\)"
    ):
        refuse_leaks(leaks)
    refuse_leaks([])


def test_groups_on_both_sides_of_a_given_split_leak(tmp_path: Path) -> None:
    rows = examples(12)
    for name, chosen in {"train": rows[:6], "val": rows[6:9], "test": rows[9:]}.items():
        lines = [
            json.dumps({"text": e.text, "label": e.label, "group": "g" if e.row in (1, 2, 10) else e.row})
            for e in chosen
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    splits = load(tmp_path, near_duplicates=False)
    assert splits.group_ids["train"][:2] == splits.group_ids["test"][:1] * 2
    assert [(leak.of, leak.into, leak.exact, leak.near) for leak in splits.leaks] == [("test", "train", 0, 1)]


def test_label_that_train_does_not_have_is_named_with_its_row(tmp_path: Path) -> None:
    rows = examples(30)
    write_given(tmp_path, train=rows[:20], val=rows[20:25], test=[Example("words", "new", None, 1)])
    with pytest.raises(DataError, match=r"\(test\), row 1: label 'new' does not occur in train"):
        load(tmp_path)


def test_problems_of_all_files_come_together(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n,a\nx,b\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text("text\nx\n", encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "row 1" in message and "several test files: test.csv, test.jsonl" in message


def test_empty_directory_and_missing_path_say_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train file \(train\.csv"):
        load(tmp_path)
    with pytest.raises(DataError, match="no such file or directory"):
        load(tmp_path / "nothing")


def test_the_articles_split_leaks_nineteen_test_texts(shared: Path) -> None:
    leaks = load(shared / "data" / "bbc" / "article").leaks
    exact = {(leak.of, leak.into): (leak.exact, leak.rows) for leak in leaks}
    assert exact == {("test", "train"): (19, 223), ("val", "train"): (16, 222), ("test", "val"): (2, 223)}
    names = ("train", "val", "test")
    parts = {n: read_examples(shared / "data" / "bbc" / "article" / f"{n}.csv") for n in names}
    assert leaks == find_leaks(parts, group_parts(parts))


def test_default_models_split_is_made_again(shared: Path) -> None:
    """The column `near_dup_group` names the groups, so that the search, which finds 2,043, changes nothing."""
    data = shared / "data" / "bbc" / "bbc_original.csv"
    splits = load_splits(TrainConfig(data=str(data), seed=42))
    assert splits.groups == 2049 and splits.sizes() == {"train": 1778, "val": 224, "test": 223}
    assert sum(e.row for e in splits.test) == 247897
