from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.texts import documents
from training.data.corpus import END_OF_TEXT, tokenise
from training.data.passages import Passages


def passages_of(tmp_path: Path, tokenizer: Tokenizer, *contents: str, **changes: Any) -> Passages:
    files = []
    for number, content in enumerate(contents):
        source = tmp_path / f"{number}.txt"
        source.write_text(content, encoding="utf-8")
        (tmp_path / f"tokens-{number}").mkdir()
        files.append(tokenise([str(source)], tokenizer, 0, tmp_path / f"tokens-{number}", 0.2, 1)[0])
    settings: dict[str, Any] = {"mixing": 1.0, "min_tokens": 4, "max_tokens": 40, "seed": 1}
    return Passages(files, tokenizer, 0, **settings | changes)


def joined(texts: list[str]) -> str:
    return f"\n{END_OF_TEXT}\n".join(texts)


@pytest.fixture
def corpus() -> list[str]:
    return list(documents())


@pytest.fixture
def passages(tmp_path: Path, tokenizer: Tokenizer, corpus: list[str]) -> Passages:
    return passages_of(tmp_path, tokenizer, joined(corpus))


def test_beginnings_are_what_the_tokens_up_to_each_cut_say(passages: Passages, tokenizer: Tokenizer) -> None:
    drawn = passages.draw(0, 300)
    assert len(drawn) == 300 and {len(passage.cuts) for passage in drawn} >= {1, 2, 3}
    for passage in drawn:
        assert passage.cuts == sorted(set(passage.cuts)) and passage.cuts[-1] == len(passage.ids) <= 40
        assert min(passage.cuts) >= min(4, len(passage.ids))
        for cut, beginning in zip(passage.cuts, passage.beginnings, strict=True):
            assert tokenizer.decode(passage.ids[:cut].tolist()) == beginning
            assert (passage.beginnings[-1] + " ").startswith(beginning + " ")  # whole words


def test_passages_are_headlines_sentences_and_stretches_that_begin_with_one(
    passages: Passages, corpus: list[str]
) -> None:
    headlines = {text.partition("\n")[0] for text in corpus}
    lines = [text.replace(".\n", ". ").replace("\n", " ") for text in corpus]
    sentences = {s if s.endswith(".") else s + "." for text in corpus for s in _sentences(text)}
    texts = [passage.beginnings[-1] for passage in passages.draw(0, 600)]
    assert sum(text in headlines for text in texts) > 30
    assert sum(text in sentences for text in texts) > 100
    # a stretch begins where a sentence or a headline does, and stays within its document
    begins = {start[:12] for start in (*sentences, *headlines)}
    assert all(any(begin.startswith(text[:12]) for begin in begins) for text in texts)
    assert all(any(text in line for line in lines) for text in texts)


def _sentences(text: str) -> list[str]:
    return [s for s in text.partition("\n")[2].replace("\n", " ").replace(". ", ".|").split("|") if s]


def test_a_shard_depends_on_seed_and_number_alone(tmp_path: Path, passages: Passages, tokenizer: Tokenizer) -> None:
    def texts(drawn: Passages, shard: int) -> list[list[str]]:
        return [passage.beginnings for passage in drawn.draw(shard, 50)]

    first = texts(passages, 3)
    texts(passages, 4)
    assert texts(passages, 3) == first != texts(passages, 5)
    (tmp_path / "again").mkdir()
    again = passages_of(tmp_path / "again", tokenizer, joined(list(documents())), seed=2)
    assert texts(again, 3) != first


@pytest.mark.parametrize(("mixing", "share"), [(0.0, 0.5), (1.0, 0.07)])
def test_files_are_mixed_by_a_power_of_their_size(
    tmp_path: Path, tokenizer: Tokenizer, corpus: list[str], mixing: float, share: float
) -> None:
    marked = [text.replace("number", "copper") for text in corpus[:8]]
    both = passages_of(tmp_path, tokenizer, joined(corpus), joined(marked), mixing=mixing)
    headlines = [text for p in both.draw(0, 2000) for text in p.beginnings[-1:] if " today" in text]
    assert np.mean(["copper" in text for text in headlines]) == pytest.approx(share, abs=0.08)
