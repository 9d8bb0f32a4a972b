import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from tests.support.texts import news_rows
from training.errors import ConfigError
from training.report.probe import last_states, probe


def lengths(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return vectors from which the label follows: the number of characters, odd or even."""
    return np.array([[len(text) % 2, 1.0] for text in texts], dtype=np.float32)


def write(path: Path, rows: list[tuple[str, str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "group"), *rows])
    return str(path)


def test_probe_answers_groups_that_it_was_not_fitted_on(tmp_path: Path) -> None:
    rows = [("x" * (i + 1), "odd" if i % 2 == 0 else "even", f"g{i}") for i in range(40)]
    others = [("xx", "even", ""), ("xxx", "even", ""), ("x", "unknown", ""), ("x", "", "")]
    found = probe(lengths, [write(tmp_path / "first.csv", rows), write(tmp_path / "other.csv", others)])
    assert found == {"probe_first": 1.0, "probe_other": 0.5}
    # vectors that tell rows apart but not labels: with each group on both sides of a fold they would be right
    of_group = {text: float(i // 2) for i, (text, _, _) in enumerate(rows)}
    drawn = np.random.default_rng(1).permutation(20)
    labels = [("odd", "even")[int(drawn[i // 2] % 2)] for i in range(40)]
    grouped = [(row[0], label, f"g{i // 2}") for i, (row, label) in enumerate(zip(rows, labels, strict=True))]
    names = np.eye(20, dtype=np.float32)
    found = probe(
        lambda texts: names[[int(of_group[text]) for text in texts]], [write(tmp_path / "grouped.csv", grouped)]
    )
    assert found["probe_grouped"] < 0.7


def test_files_that_cannot_be_probed_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", [("x" * (i + 1), "ab"[i % 2], f"g{i}") for i in range(12)])
    with pytest.raises(ConfigError, match="no row with a label of"):
        probe(lengths, [first, write(tmp_path / "b.csv", [("x", "c", "")])])
    with pytest.raises(ConfigError, match="cannot be cross-validated"):
        probe(lengths, [write(tmp_path / "c.csv", [("x", "a", ""), ("xx", "b", "")])])


def test_last_states_are_those_of_each_text_alone(base_model: Path, tokenizer: Tokenizer) -> None:
    model = GPT2LMHeadModel.from_pretrained(base_model)
    texts = [row["text"] for row in news_rows(9)]
    states = last_states(model, tokenizer, 20)
    together = states(texts)
    np.testing.assert_allclose(together, np.concatenate([states([text]) for text in texts]), atol=1e-5)
    np.testing.assert_allclose(states([texts[0] + "  \n more words " * 9]), states([texts[0] + " more words" * 9]))
