"""Encoding of texts as tokens and padded batches.

This module cleans texts up, tokenises them, cuts long texts into windows, and makes padded batches with the positions
and the mask that GPT-2 needs. It uses plain Python and numpy, and knows neither models nor HTTP.
"""

import itertools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Encoding, Tokenizer

from classifier import OnLong
from classifier.errors import EmptyTextError, EncodingError, ModelError, TextTooLongError

Side = Literal["left", "right"]

MAX_COMBINING = 30
"""Number of combining marks in a row that clean-up keeps: the bound of Unicode's stream-safe text format (UAX #15,
section 13). `unicodedata` takes time quadratic in the length of a run: 40,000 marks stop a process for seconds."""

TEXTS_AT_ONCE = 1000
"""Texts of a corpus that are tokenised in one call: enough for all cores, few enough for any memory."""

_WORD = re.compile(r"\S+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKS = re.compile(f"[\u0300-\U0010ffff]{{{MAX_COMBINING + 1}}}")
"""A run of characters that may be too many combining marks; U+0300 is the first mark."""


class TextCleaning(BaseModel):
    """The clean-up of every text, in training and in serving alike. It is part of the artifact's manifest.

    The steps run in the order of the fields; cleaning a cleaned text changes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unicode_form: Literal["NFC", "NFKC", "none"] = Field("NFC", description="Unicode normalisation form")
    lowercase: bool = Field(False, description="lower-case the text")
    collapse_whitespace: bool = Field(
        True, description="replace each run of white space by one space, so that line breaks never change an answer"
    )

    def clean(self, text: str) -> str:
        """Return the cleaned text without white space at either end. It may be empty."""
        if not text.isascii():
            text = _stream_safe(text)
        if self.unicode_form != "none":
            text = unicodedata.normalize(self.unicode_form, text)
        if self.lowercase:
            text = text.lower()
            if self.unicode_form != "none":  # lower-casing can denormalise: "İ" becomes "i" + a combining dot
                text = unicodedata.normalize(self.unicode_form, text)
        return " ".join(text.split()) if self.collapse_whitespace else text.strip()


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one text that the model reads at once.

    `start` and `end` (exclusive) are character offsets into the cleaned text.
    """

    ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One text as windows, in text order. There is at least one window, and none is empty."""

    windows: tuple[Window, ...]
    tokens: int
    """Tokens of the whole text."""
    tokens_read: int
    """Tokens that are in at least one window; fewer than `tokens` only if the text was truncated."""

    @property
    def truncated(self) -> bool:
        return self.tokens_read < self.tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch, int64.

    `ids_bt`, `mask_bt` and `positions_bt` have shape (B, T). `mask_bt` is 1 on real tokens. `positions_bt` counts the
    real tokens of a row from 0, wherever its padding is. GPT2Model by itself numbers positions 0..T-1 whatever the mask
    says, which is wrong for every left-padded row.
    """

    ids_bt: NDArray[np.int64]
    mask_bt: NDArray[np.int64]
    positions_bt: NDArray[np.int64]


def pad(sequences: Sequence[Sequence[int]], pad_id: int, side: Side = "left") -> Batch:
    """Pad sequences of token ids to one length.

    Args:
        sequences: B sequences, each with at least one id.
        pad_id: the id of padding. Its value never changes an answer, because the mask hides it.
        side: the side of the padding.

    Raises:
        EncodingError: there is no sequence, or an empty one, which has no last token to classify.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise EncodingError("a batch needs at least one sequence, and each sequence at least one token")
    shape = (len(lengths), max(lengths))
    ids_bt = np.full(shape, pad_id, dtype=np.int64)
    mask_bt = np.zeros(shape, dtype=np.int64)
    for row, ids in enumerate(sequences):
        columns = slice(shape[1] - len(ids), None) if side == "left" else slice(0, len(ids))
        ids_bt[row, columns] = ids
        mask_bt[row, columns] = 1
    return Batch(ids_bt, mask_bt, np.maximum(mask_bt.cumsum(axis=1) - 1, 0))


def window_starts(tokens: int, max_tokens: int, stride: int) -> list[int]:
    """Return the index of the first token of each window over a text of `tokens` tokens.

    A window starts every `stride` tokens. The last window ends with the text, so that every window of a long text is
    full.
    """
    if tokens <= max_tokens:
        return [0]
    return [*range(0, tokens - max_tokens, stride), tokens - max_tokens]


class Encoder:
    """Cuts texts into windows of token ids.

    Args:
        tokenizer: a byte-level tokenizer. It is set here to encode text that looks like a special token, such as
            `<|endoftext|>`, as the plain characters that it is.
        cleaning: the clean-up.
        max_tokens: tokens of one window, at least 1.
        window_stride: tokens between the starts of neighbouring windows, 1..max_tokens.
        on_long: treatment of longer texts unless the caller says otherwise.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        cleaning: TextCleaning,
        max_tokens: int,
        window_stride: int,
        on_long: OnLong = "windows",
    ) -> None:
        if not 1 <= window_stride <= max_tokens:
            raise EncodingError(f"window stride must be 1..max_tokens, got {window_stride} with {max_tokens} tokens")
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.cleaning = cleaning
        self.max_tokens = max_tokens
        self.window_stride = window_stride
        self.on_long = on_long

    def encode(self, texts: Sequence[str], on_long: OnLong | None = None) -> list[EncodedText | EncodingError]:
        """Return one result per text, in order. A text that cannot be encoded has an `EncodingError` in its place."""
        results: dict[int, EncodedText | EncodingError] = {}
        cleaned: dict[int, str] = {}
        for position, text in enumerate(texts):
            try:
                cleaned[position] = self._clean(text)
            except EncodingError as exc:
                results[position] = exc
        encodings = self._tokenizer.encode_batch(list(cleaned.values()), add_special_tokens=False)
        for (position, clean), encoding in zip(cleaned.items(), encodings, strict=True):
            try:
                results[position] = self._windows(_ids(encoding), encoding, len(clean), on_long or self.on_long)
            except EncodingError as exc:
                results[position] = exc
        return [results[position] for position in range(len(texts))]

    def encode_each(self, texts: Iterable[str], on_long: OnLong | None = None) -> Iterator[EncodedText | EncodingError]:
        """Yield the results of `encode` for a corpus of any size, which is tokenised `TEXTS_AT_ONCE` texts at a time.

        A caller that keeps all token ids puts them into arrays: a tuple of Python integers takes up to nine times the
        memory of an int32 array.
        """
        remaining = iter(texts)
        while chunk := list(itertools.islice(remaining, TEXTS_AT_ONCE)):
            yield from self.encode(chunk, on_long)

    def tokenize(self, text: str, most: int) -> tuple[str, list[int], list[tuple[int, int]]]:
        """Return the cleaned text, all its token ids, and where the first `most` tokens are in the cleaned text.

        Places are start and end (exclusive) in characters.

        Raises:
            EncodingError: the text cannot be encoded.
        """
        cleaned = self._clean(text)
        [encoding] = self._tokenizer.encode_batch([cleaned], add_special_tokens=False)  # `encode` holds Python's lock
        ids = _ids(encoding)
        return cleaned, ids, [_place(encoding, token) for token in range(min(most, len(ids)))]

    def _clean(self, text: str) -> str:
        surrogate = _SURROGATE.search(text)
        if surrogate:
            raise EncodingError(f"the text is not valid Unicode: unpaired surrogate at character {surrogate.start()}")
        cleaned = self.cleaning.clean(text)
        if not cleaned:
            raise EmptyTextError("the text is empty")
        return cleaned

    def _windows(self, ids: list[int], encoding: Encoding, characters: int, on_long: OnLong) -> EncodedText:
        tokens = len(ids)
        if tokens <= self.max_tokens:
            return EncodedText((Window(tuple(ids), 0, characters),), tokens, tokens)
        if on_long == "error":
            raise TextTooLongError(tokens, self.max_tokens)
        starts = [0] if on_long == "truncate" else window_starts(tokens, self.max_tokens, self.window_stride)
        windows = tuple(
            Window(
                tuple(ids[s : s + self.max_tokens]),
                _place(encoding, s)[0],
                _place(encoding, s + self.max_tokens - 1)[1],
            )
            for s in starts
        )
        return EncodedText(windows, tokens, self.max_tokens if on_long == "truncate" else tokens)


def original_spans(text: str, cleaning: TextCleaning, windows: Sequence[Window]) -> tuple[tuple[int, int], ...]:
    """Return where windows lie in a text as it was sent, in whole words.

    Clean-up changes letters and white space but keeps the order of words: each word of the text becomes some number of
    words of the cleaned text, nearly always one. The span of a window reaches from the first character of the first
    word that it touches to the last character of the last.

    Args:
        text: the text before clean-up.
        cleaning: the clean-up that was applied.
        windows: the windows of the cleaned text.

    Returns:
        Start and end (exclusive) of each window, in characters of `text`.
    """
    origin: list[tuple[int, int]] = []  # span in `text` of each cleaned word
    for word in _WORD.finditer(text):
        origin += [word.span()] * len(cleaning.clean(word.group()).split())
    places = [word.span() for word in _WORD.finditer(cleaning.clean(text))]
    starts, ends = [start for start, _ in places], [end for _, end in places]
    spans = []
    for window in windows:
        first = bisect_right(ends, window.start)
        last = bisect_left(starts, window.end) - 1
        spans.append((origin[first][0], origin[max(first, last)][1]))
    return tuple(spans)


def end_of_reading(text: str, cleaning: TextCleaning, end: int) -> int:
    """Return the index after the last character of a text whose clean-up lies before `end` in the cleaned text.

    Unlike the spans of windows, this may be within a word: some scripts write whole texts without spaces.
    """
    read = bisect_right(range(len(text) + 1), end, key=lambda index: len(cleaning.clean(text[:index]))) - 1
    return len(text[:read].rstrip())


def _stream_safe(text: str) -> str:
    """Return the text with at most `MAX_COMBINING` combining marks in a row. No script uses more of them."""
    if not _MARKS.search(text):  # true for nearly every text; the loop below takes milliseconds
        return text
    kept: list[str] = []
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= MAX_COMBINING:
            kept.append(character)
    return text if len(kept) == len(text) else "".join(kept)


def _ids(encoding: Encoding) -> list[int]:
    ids: list[int] = encoding.ids
    if not ids:  # a tokenizer whose vocabulary lacks bytes can drop characters
        raise EmptyTextError("the tokenizer finds no token in the text")
    return ids


def _place(encoding: Encoding, token: int) -> tuple[int, int]:
    """Return start and end (exclusive) of a token. `encoding.offsets` makes those of all tokens, which takes long."""
    place = encoding.token_to_chars(token)
    assert place is not None, "the text has so many tokens"
    return place


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        ModelError: the file is missing, is not a tokenizer, or has no vocabulary. The last happens when transformers 5
            builds a GPT-2 tokenizer from vocab.json and merges.txt, without any warning.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; a fast tokenizer's tokenizer.json is needed")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: not a tokenizer: {exc}") from exc
    if tokenizer.get_vocab_size(with_added_tokens=False) < 2:
        raise ModelError(f"{path}: the tokenizer's vocabulary is empty")
    return tokenizer
