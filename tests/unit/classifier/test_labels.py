import pytest

from classifier.errors import LabelError
from classifier.labels import Labels


def test_from_values_order_does_not_depend_on_rows() -> None:
    assert Labels.from_values(["tech", "art", "tech"]) == Labels.from_values(["art", "tech"])
    assert Labels.from_values(["tech", "art"]).names == ("art", "tech")


def test_ids_and_names_are_inverse() -> None:
    labels = Labels(("b", "a", "c"))
    assert [labels.id2label[labels.id_of(name)] for name in labels.names] == ["b", "a", "c"]
    assert Labels.from_id2label({"2": "c", "0": "b", "1": "a"}) == labels
    assert len(labels) == 3


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LabelError, match="unknown label 'x'; the labels are a, b"):
        Labels(("a", "b")).id_of("x")


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a",), "at least two"), (("a", " "), "label 1 of 2 has a blank name"), (("a", "b", "a"), "more than once: 'a'")],
)
def test_unusable_sets_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Labels(names)


def test_id2label_with_a_gap_is_refused() -> None:
    with pytest.raises(LabelError, match=r"must be 0\.\.1, got \[0, 2\]"):
        Labels.from_id2label({0: "a", 2: "b"})
