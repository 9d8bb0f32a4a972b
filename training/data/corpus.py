"""A text corpus as one sequence of tokens on disk, cut into blocks for pre-training.

Documents are read one after another, so a corpus may be larger than memory, but a single document may not. Whether a
document is held out for validation depends only on its text and the seed, so copies of it are always on one side.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch.utils.data import Dataset

from training.data.files import name_of, replace_text
from training.errors import DataError, Problem

END_OF_TEXT = "<|endoftext|>"
"""GPT-2's token for the end of a document, and in a file the line that separates two documents."""
DOCUMENTS_AT_ONCE = 512
"""Documents that are tokenised in one call, in parallel."""


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids."""

    path: Path
    dtype: str
    """NumPy's type of an id: uint16 if the vocabulary fits, else uint32."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the text, without document ends."""


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """A token file in blocks of T tokens; an incomplete last block is left out.

    Each item has `input_ids` and `labels`, the same (T,) int64 tensor: the model shifts the labels itself.
    """

    def __init__(self, file: TokenFile, block: int) -> None:
        self._file = file
        self._block = block

    def __len__(self) -> int:
        return self._file.tokens // self._block

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # The file is mapped anew each time, because an open map counts all pages read as memory of the process.
        tokens = np.memmap(self._file.path, dtype=self._file.dtype, mode="r")
        ids = torch.from_numpy(tokens[index * self._block : (index + 1) * self._block].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def read_documents(sources: Sequence[str]) -> Iterator[str]:
    """Yield the documents of text files, stripped of surrounding white space; empty ones are left out.

    Args:
        sources: local paths or URLs that fsspec opens (`s3://...` with s3fs installed); `.gz`, `.xz` and `.bz2` are
            unpacked while reading. Lines `<|endoftext|>` separate documents.

    Raises:
        DataError: a file cannot be opened, is damaged, or is not UTF-8.
    """
    for source in sources:
        if name_of(source).endswith(".zip"):  # fsspec would read its first member and say nothing of the others
            raise DataError(Problem(source, "is an archive of several files; unpack it, or use .gz or .xz"))
        try:
            with fsspec.open(source, "rt", encoding="utf-8", compression="infer") as file:
                for is_end, lines in itertools.groupby(file, key=lambda line: line.strip() == END_OF_TEXT):
                    # Within a line the token is plain text, and must not end a document.
                    document = "" if is_end else "".join(lines).replace(END_OF_TEXT, " ").strip()
                    if document:
                        yield document
        except Exception as exc:  # each file system and each packer raises its own
            raise DataError(Problem(source, f"cannot be read as UTF-8 text: {exc!r:.300}")) from exc


def identities(sources: Sequence[str]) -> list[list[Any]]:
    """Return name, size and time of change of each source without fetching it, to tell apart corpora of one name.

    Raises:
        DataError: a source cannot be found.
    """
    found = []
    for source in sources:
        try:
            files, path = fsspec.url_to_fs(source)
            info = files.info(path)
        except Exception as exc:
            raise DataError(Problem(source, f"cannot be found: {exc!r:.300}")) from exc
        changed = next((info[key] for key in ("mtime", "ETag", "LastModified", "created") if key in info), None)
        found.append([name_of(source), info.get("size"), str(changed)])
    return found


def train_tokenizer(sources: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer, GPT-2's kind, on a corpus; `<|endoftext|>` becomes token 0.

    Raises:
        DataError: the corpus cannot be read, or is too small for the vocabulary.
    """
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        read_documents(sources), vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False
    )
    tokenizer = Tokenizer.from_str(trainer.to_str())
    if tokenizer.get_vocab_size() < vocab_size:
        message = f"the corpus gives a vocabulary of {tokenizer.get_vocab_size()} tokens, {vocab_size} were asked for"
        raise DataError(Problem(", ".join(sources), f"{message}; more text, or a smaller --vocab-size"))
    return tokenizer


def tokenise(
    sources: Sequence[str], tokenizer: Tokenizer, end_id: int, directory: Path, val_fraction: float, seed: int
) -> tuple[TokenFile, TokenFile]:
    """Write a corpus's tokens to `train.tokens` and `val.tokens`, each document followed by `end_id`.

    Args:
        sources: see `read_documents`.
        tokenizer: the tokenizer; its special tokens are plain text within a document.
        end_id: the token id that ends a document.
        directory: an existing directory. The files are written there once, `tokens.json` last, and reused afterwards.
        val_fraction: fraction of the documents held out for validation.
        seed: decides which documents are held out.

    Raises:
        DataError: the corpus cannot be read, or one of the two files would be empty.
    """
    record = directory / "tokens.json"
    if record.exists():
        there = json.loads(record.read_text(encoding="utf-8"))
        return _from_record(directory, there["train"]), _from_record(directory, there["val"])
    dtype = "uint16" if tokenizer.get_vocab_size() <= 1 << 16 else "uint32"
    counts = {part: {"name": f"{part}.tokens", "dtype": dtype, "tokens": 0, "bytes": 0} for part in ("train", "val")}
    with (directory / "train.tokens").open("wb") as train, (directory / "val.tokens").open("wb") as val:
        documents, found = read_documents(sources), 0
        while chunk := list(itertools.islice(documents, DOCUMENTS_AT_ONCE)):
            found += len(chunk)
            for text, encoding in zip(chunk, tokenizer.encode_batch(chunk, add_special_tokens=False), strict=True):
                held_out = _draw(text, seed) < val_fraction
                ids = np.array([*encoding.ids, end_id], dtype=dtype)
                (val if held_out else train).write(ids.tobytes())
                count: dict[str, Any] = counts["val" if held_out else "train"]
                count["tokens"] += len(ids)
                count["bytes"] += len(text.encode())
    for part, count in counts.items():
        if not count["tokens"]:
            message = (
                f"none of {found} documents falls to {part}; lines {END_OF_TEXT} separate documents, and "
                "--val-fraction sets how many are held out"
            )
            raise DataError(Problem(", ".join(sources), message))
    replace_text(record, json.dumps(counts, indent=2))
    return _from_record(directory, counts["train"]), _from_record(directory, counts["val"])


def _draw(text: str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the text and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=6).digest()) / 2**48


def _from_record(directory: Path, record: dict[str, Any]) -> TokenFile:
    return TokenFile(directory / record["name"], record["dtype"], record["tokens"], record["bytes"])
