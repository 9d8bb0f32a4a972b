import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.texts import news_rows
from training.config import DataConfig
from training.data import duplicates
from training.data.duplicates import MIN_SHARED, SHINGLE_WORDS, find_groups, normalise
from training.data.read import read_examples

STORY = (
    "The council will build a new bridge over the river next year, its leader said on Monday. Work will begin in "
    "spring and the old crossing stays open until the last stone of the new one has been laid by the mayor."
)


def test_case_spacing_and_punctuation_make_no_difference() -> None:
    assert normalise("A  new\nbridge, said 'the' Mayor!") == normalise("a new bridge said the mayor")


WORDS = STORY.split()
OTHERS = [row["text"] for row in news_rows(9)]


@pytest.mark.parametrize(
    ("texts", "near", "groups"),
    [
        (["A new bridge!", "something else", "a NEW bridge"], True, [0, 1, 0]),
        ([STORY, OTHERS[0], "UPDATE: " + STORY.replace("on Monday", "late on Tuesday") + " More."], True, [0, 1, 0]),
        ([STORY + " ".join(OTHERS), STORY], True, [0, 0]),
        ([f"please cancel my order number {i}" for i in range(20)], True, list(range(20))),
        (["🙂 🙂", "🙁", "🙂  🙂"], True, [0, 1, 0]),
        ([STORY, STORY + " Amen.", STORY.upper()], False, [0, 1, 0]),
        ([" ".join(WORDS[:29]), STORY, " ".join(WORDS[21:])], True, [0, 0, 0]),
    ],
    ids=["spelling", "other-beginning", "excerpt", "template", "no-words", "exact-only", "transitive"],
)
def test_groups_of_texts(texts: list[str], near: bool, groups: list[int]) -> None:
    assert find_groups(texts, near=near) == groups


def test_a_shared_phrase_is_no_duplicate() -> None:
    rows = news_rows(30)
    texts = [row["text"] + " the full story is at our site" for row in rows]
    assert find_groups(texts) == list(range(len(rows)))


def test_given_groups_are_kept_and_near_duplicates_joined_in_addition() -> None:
    assert find_groups(["one", "two", "three", "ONE"], ["g", "g", "h", "i"]) == [0, 0, 2, 0]
    assert find_groups([STORY, "two", STORY + " Amen."], ["g", "h", "i"]) == [0, 1, 0]
    assert find_groups([STORY, "two", STORY + " Amen."], ["g", "h", "h"], near=False) == [0, 1, 1]


def near_copies(count: int) -> list[str]:
    """Return copies of one text; in each, another word is replaced and a number is added."""
    words = [f"word{i}" for i in range(60)]
    return [" ".join([*words[: i % 60], f"change{i}", *words[i % 60 + 1 :], str(i)]) for i in range(count)]


@pytest.mark.parametrize("count", [10, duplicates.MAX_TEXTS_PER_SHINGLE, duplicates.MAX_TEXTS_PER_SHINGLE + 100])
def test_any_number_of_near_copies_is_one_group(count: int) -> None:
    others = [row["text"] for row in news_rows(count)]
    texts = [text for pair in zip(near_copies(count), others, strict=True) for text in pair]
    groups = find_groups(texts)
    assert set(groups[::2]) == {0}
    assert groups[1::2] == list(range(1, 2 * count, 2))


def test_boilerplate_in_many_texts_joins_none_even_if_it_is_a_text_itself() -> None:
    boilerplate = "the full story with all pictures is at our site for readers who have paid"
    rows = news_rows(duplicates.MAX_TEXTS_PER_SHINGLE + 100)
    texts = [*(f"{row['text']} {row['text'][::-1]} {boilerplate}" for row in rows), f"Sorry! {boilerplate}"]
    assert find_groups(texts) == list(range(len(texts)))


def test_chunks_change_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [row["text"] for row in news_rows(40)]
    texts += [f"{a} {b}" for a, b in itertools.pairwise(texts)] + near_copies(30)
    groups = find_groups(texts)
    monkeypatch.setattr(duplicates, "SHINGLES_AT_ONCE", 50)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 20)
    assert find_groups(texts) == groups


@pytest.mark.parametrize(
    "text",
    [
        "市议会周一宣布明年将在河上修建一座新桥工程将于春季开始旧桥将保持通行直到新桥完工",
        "市議会は月曜日に来年川に新しい橋を架けると発表した工事は春に始まる",
        "สภาเมืองประกาศเมื่อวันจันทร์ว่าจะสร้างสะพานใหม่ข้ามแม่น้ำในปีหน้า",
        "ក្រុមប្រឹក្សាក្រុងបានប្រកាសថានឹងសាងសង់ស្ពានថ្មីឆ្លងកាត់ទន្លេនៅឆ្នាំក្រោយ",
    ],
    ids=["Chinese", "Japanese", "Thai", "Khmer"],
)
def test_near_duplicates_are_found_in_scripts_without_spaces(text: str) -> None:
    half = len(text) // 2
    assert find_groups([text, text[:half] + "!" + text[half:], text[:-2] + "2027", text[::-1]]) == [0, 0, 0, 3]


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=0, max_size=12).map(" ".join)


@given(st.lists(words, max_size=8))
def test_groups_equal_a_plain_comparison(texts: list[str]) -> None:
    def shingles(text: str) -> set[tuple[str, ...]]:
        w = text.split()
        return {tuple(w[i : i + SHINGLE_WORDS]) for i in range(len(w) - SHINGLE_WORDS + 1)}

    sets = [shingles(text) for text in texts]
    expected = list(range(len(texts)))
    for b in range(len(texts)):
        for a in range(b):
            shared = len(sets[a] & sets[b])
            if texts[a] == texts[b] or shared >= max(MIN_SHARED, 0.5 * min(len(sets[a]), len(sets[b]))):
                low, high = sorted((expected[a], expected[b]))
                expected = [low if group == high else group for group in expected]
    assert find_groups(texts) == expected


def test_order_does_not_change_the_partition() -> None:
    texts = [STORY, STORY + " Amen.", *(row["text"] for row in news_rows(20))]
    shuffled = list(range(len(texts)))
    random.Random(1).shuffle(shuffled)
    groups = find_groups(texts)
    again = find_groups([texts[i] for i in shuffled])
    together = {(a, b) for a in shuffled for b in shuffled if groups[a] == groups[b]}
    position = {i: p for p, i in enumerate(shuffled)}
    assert together == {(a, b) for a in shuffled for b in shuffled if again[position[a]] == again[position[b]]}


def test_bbc_groups_are_found_again(shared: Path) -> None:
    """The file's own 2,049 groups came from another program; ours finds every pair of theirs and a few more."""
    examples = read_examples(shared / "data" / "bbc" / "bbc_original.csv", DataConfig(use_title=False))
    ours = find_groups([e.text for e in examples])
    assert 2035 <= len(set(ours)) <= 2049
    by_theirs: dict[str | None, set[int]] = {}
    for group, example in zip(ours, examples, strict=True):
        by_theirs.setdefault(example.group, set()).add(group)
    assert len(by_theirs) == 2049
    assert all(len(groups) == 1 for groups in by_theirs.values())
