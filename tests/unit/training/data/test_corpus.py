import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.texts import corpus
from training.data.corpus import Blocks, identities, read_documents, tokenise, train_tokenizer
from training.errors import DataError

CONTENT = (
    "first\nof two lines\n<|endoftext|>\n\n<|endoftext|>\nsecond with <|endoftext|> inside\n  <|endoftext|>  \nthird"
)
DOCUMENTS = ["first\nof two lines", "second with   inside", "third"]


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz", "c.txt.xz"])
def test_documents_are_read_packed_or_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    raw = CONTENT.encode()
    path.write_bytes({".gz": gzip.compress(raw), ".xz": lzma.compress(raw)}.get(path.suffix, raw))
    assert list(read_documents([str(path), str(path)])) == DOCUMENTS * 2


def test_documents_come_from_any_file_system() -> None:
    import fsspec

    with fsspec.open("memory://corpus.txt", "w") as file:
        file.write(CONTENT)
    assert list(read_documents(["memory://corpus.txt"])) == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("none.txt", None),
        ("latin.txt", b"caf\xe9"),
        ("cut.xz", lzma.compress(b"x" * 9999)[:40]),
        ("bad.xz", b"no xz at all"),
        ("bad.gz", b"no gzip"),
        ("flipped.gz", bytes(b ^ (i == 20) for i, b in enumerate(gzip.compress(b"one two three " * 9, mtime=0)))),
        ("several.zip", b"PK"),
    ],
)
def test_unreadable_files_are_named(tmp_path: Path, name: str, raw: bytes | None) -> None:
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(DataError, match=name):
        list(read_documents([str(path)]))
    with pytest.raises(DataError, match="nosuchprotocol"):
        list(read_documents(["nosuchprotocol://x"]))


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(corpus()), encoding="utf-8")
    return str(path)


def test_tokenizer_is_gpt2s_kind_and_loses_nothing(source: str) -> None:
    tokenizer = train_tokenizer([source], 400)
    assert tokenizer.get_vocab_size() == 400 and tokenizer.token_to_id("<|endoftext|>") == 0
    text = "Zürich, 10 €\n\tgoal"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    with pytest.raises(DataError, match="100000 were asked for"):
        train_tokenizer([source], 100_000)


def test_tokens_are_the_documents_and_each_stands_on_one_side(
    source: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    train, val = tokenise([source, source], tokenizer, 0, tmp_path, 0.2, 1)
    sides = []
    for file in (train, val):
        ids = np.fromfile(file.path, dtype=file.dtype)
        assert len(ids) == file.tokens and ids[-1] == 0
        documents = [tokenizer.decode(part.tolist()) for part in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]]
        assert sum(len(document.encode()) for document in documents) == file.bytes
        sides.append(documents)
    assert not set(sides[0]) & set(sides[1])
    assert sorted(sides[0] + sides[1]) == sorted([*corpus(), *corpus()])
    assert 0.1 < len(sides[1]) / 600 < 0.3


def test_tokens_on_disk_are_taken_as_they_are(source: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = tokenise([source], tokenizer, 0, tmp_path, 0.2, 1)
    Path(source).unlink()
    assert tokenise([source], tokenizer, 0, tmp_path, 0.2, 1) == first


def test_corpus_without_enough_documents_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one document", encoding="utf-8")
    with pytest.raises(DataError, match=r"none of 1 documents falls to val; lines <\|endoftext\|>"):
        tokenise([str(tmp_path / "one.txt")], tokenizer, 0, tmp_path, 0.001, 1)


def test_identity_tells_another_corpus_of_the_same_name(source: str) -> None:
    import os

    first = identities([source])
    assert first == identities([source]) and first[0][0] == "corpus.txt"
    os.utime(source, (1, 1))
    assert identities([source]) != first
    with pytest.raises(DataError, match=r"none\.txt: cannot be found"):
        identities([source.replace("corpus.txt", "none.txt")])


def test_blocks_are_stretches_of_the_file(source: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    train, _ = tokenise([source], tokenizer, 0, tmp_path, 0.2, 1)
    blocks = Blocks(train, 50)
    ids = np.fromfile(train.path, dtype=train.dtype)
    assert len(blocks) == train.tokens // 50
    assert blocks[3]["input_ids"].tolist() == ids[150:200].tolist() == blocks[3]["labels"].tolist()
