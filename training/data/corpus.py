"""A text corpus as one long row of tokens on disk, cut into blocks to pre-train on.

Documents are read one after another, so that a corpus may be larger than memory (one document may not). Which of them
are held out for validation depends on text and seed alone: a document that stands in the corpus twice is on one side.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from torch.utils.data import Dataset

from training.data.sources import name_of
from training.errors import DataError, Problem

END_OF_TEXT = "<|endoftext|>"
"""A line of its own between two documents of a file, and GPT-2's token for it."""
DOCUMENTS_AT_ONCE = 512
"""Tokenised in one call, in parallel."""


@dataclass(frozen=True)
class TokenFile:
    """Tokens on disk."""

    path: Path
    dtype: str
    """NumPy's name of it: uint16 where the vocabulary fits, else uint32."""
    tokens: int
    bytes: int
    """UTF-8 bytes of the text, without the ends of documents."""


class Blocks(Dataset[dict[str, torch.Tensor]]):
    """A token file in blocks of T tokens; what does not fill the last block is left out.

    Each item is `input_ids` and `labels`, both the same (T,) int64: the model shifts them itself.
    """

    def __init__(self, file: TokenFile, block: int) -> None:
        self._file = file
        self._block = block

    def __len__(self) -> int:
        return self._file.tokens // self._block

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # mapped anew each time: a map that stays open counts every page once read as this process's memory
        tokens = np.memmap(self._file.path, dtype=self._file.dtype, mode="r")
        ids = torch.from_numpy(tokens[index * self._block : (index + 1) * self._block].astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def length(self, index: int) -> int:
        """Tokens of a block: all have the same."""
        return self._block


def read_documents(sources: Sequence[str]) -> Iterator[str]:
    """The documents of text files, without white space around them; empty ones are left out.

    Args:
        sources: local paths or anything fsspec opens (`s3://...` with s3fs installed); `.gz`, `.xz` and `.bz2` are
            unpacked on the way. Documents are separated by lines `<|endoftext|>`.

    Raises:
        DataError: a file that cannot be opened, is damaged, or is not UTF-8.
    """
    for source in sources:
        if name_of(source).endswith(".zip"):  # fsspec would read its first member and say nothing of the others
            raise DataError([Problem(source, 0, 0, "", "is an archive of files; unpack it, or use .gz or .xz")])
        try:
            with fsspec.open(source, "rt", encoding="utf-8", compression="infer") as file:
                for is_end, lines in itertools.groupby(file, key=lambda line: line.strip() == END_OF_TEXT):
                    # within a line it is text, which must not become the end of a document
                    document = "" if is_end else "".join(lines).replace(END_OF_TEXT, " ").strip()
                    if document:
                        yield document
        except Exception as exc:  # each file system and each packer raises its own
            raise DataError([Problem(source, 0, 0, "", f"cannot be read as UTF-8 text: {exc!r:.300}")]) from exc


def identities(sources: Sequence[str]) -> list[list[Any]]:
    """Name, size and time of change of each source, without fetching it: another corpus under the same name shows.

    Raises:
        DataError: one that cannot be found.
    """
    found = []
    for source in sources:
        try:
            files, path = fsspec.url_to_fs(source)
            info = files.info(path)
        except Exception as exc:
            raise DataError([Problem(source, 0, 0, "", f"cannot be found: {exc!r:.300}")]) from exc
        changed = next((info[key] for key in ("mtime", "ETag", "LastModified", "created") if key in info), None)
        found.append([name_of(source), info.get("size"), str(changed)])
    return found


def train_tokenizer(sources: Sequence[str], vocab_size: int) -> Tokenizer:
    """GPT-2's kind of tokenizer, byte-level BPE, trained on a corpus; `<|endoftext|>` is its token 0.

    Raises:
        DataError: the corpus cannot be read, or is too small for that many tokens.
    """
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(
        read_documents(sources), vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False
    )
    tokenizer = Tokenizer.from_str(trainer.to_str())
    if tokenizer.get_vocab_size() < vocab_size:
        message = f"the corpus gives a vocabulary of {tokenizer.get_vocab_size()} tokens, {vocab_size} were asked for"
        raise DataError([Problem(", ".join(sources), 0, 0, "", f"{message}; more text, or a smaller --vocab-size")])
    return tokenizer


def tokenise(
    sources: Sequence[str], tokenizer: Tokenizer, end_id: int, directory: Path, val_fraction: float, seed: int
) -> tuple[TokenFile, TokenFile]:
    """Write a corpus's tokens to `train.tokens` and `val.tokens`, each document followed by `end_id`.

    Args:
        sources: see `read_documents`.
        tokenizer: its special tokens in the text stay text.
        end_id: the id that ends a document.
        directory: exists; written there once, `tokens.json` last, and taken from there the next time.
        val_fraction: part of the documents held out.
        seed: decides which.

    Raises:
        DataError: see `read_documents`; or no document for one of the two.
    """
    record = directory / "tokens.json"
    if record.exists():
        there = json.loads(record.read_text(encoding="utf-8"))
        return _from_record(directory, there["train"]), _from_record(directory, there["val"])
    dtype = "uint16" if tokenizer.get_vocab_size() <= 1 << 16 else "uint32"
    counts = {part: {"name": f"{part}.tokens", "dtype": dtype, "tokens": 0, "bytes": 0} for part in ("train", "val")}
    with (directory / "train.tokens").open("wb") as train, (directory / "val.tokens").open("wb") as val:
        documents, found = read_documents(sources), 0
        while stretch := list(itertools.islice(documents, DOCUMENTS_AT_ONCE)):
            found += len(stretch)
            for text, encoding in zip(stretch, tokenizer.encode_batch(stretch, add_special_tokens=False), strict=True):
                held_out = _draw(text, seed) < val_fraction
                ids = np.array([*encoding.ids, end_id], dtype=dtype)
                (val if held_out else train).write(ids.tobytes())
                count: dict[str, Any] = counts["val" if held_out else "train"]
                count["tokens"] += len(ids)
                count["bytes"] += len(text.encode())
    for part, count in counts.items():
        if not count["tokens"]:
            message = (
                f"{found} documents, none of them falls to {part}; documents are separated by lines {END_OF_TEXT}, "
                "and --val-fraction says how many are held out"
            )
            raise DataError([Problem(", ".join(sources), 0, 0, "", message)])
    unfinished = record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(counts, indent=2), encoding="utf-8")
    os.replace(unfinished, record)
    return _from_record(directory, counts["train"]), _from_record(directory, counts["val"])


def _draw(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the text and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=6).digest()) / 2**48


def _from_record(directory: Path, record: dict[str, Any]) -> TokenFile:
    return TokenFile(directory / record["name"], record["dtype"], record["tokens"], record["bytes"])
