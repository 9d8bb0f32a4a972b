import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.models import BPE

from classifier import OnLong
from classifier.encoding import (
    TEXTS_AT_ONCE,
    EncodedText,
    Encoder,
    TextCleaning,
    Window,
    load_tokenizer,
    original_spans,
    pad,
    window_starts,
)
from classifier.errors import EmptyTextError, EncodingError, ModelError, TextTooLongError

sequences = st.lists(st.lists(st.integers(0, 399), min_size=1, max_size=30), min_size=1, max_size=8)


@given(sequences, st.sampled_from(["left", "right"]), st.integers(0, 399))
def test_pad_keeps_every_token_with_its_position(rows: list[list[int]], side: str, pad_id: int) -> None:
    batch = pad(rows, pad_id, side)  # type: ignore[arg-type]
    assert batch.ids_bt.shape == (len(rows), max(map(len, rows)))
    for row, ids in enumerate(rows):
        real = batch.mask_bt[row] == 1
        assert batch.ids_bt[row][real].tolist() == ids
        assert batch.positions_bt[row][real].tolist() == list(range(len(ids)))
        assert (batch.ids_bt[row][~real] == pad_id).all()


def test_pad_side_decides_where_the_padding_stands() -> None:
    assert pad([[5, 6], [7]], 0, "left").ids_bt.tolist() == [[5, 6], [0, 7]]
    assert pad([[5, 6], [7]], 0, "right").ids_bt.tolist() == [[5, 6], [7, 0]]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_pad_refuses_rows_without_a_token(rows: list[list[int]]) -> None:
    with pytest.raises(EncodingError):
        pad(rows, 0)


@given(st.integers(1, 5000), st.integers(1, 512), st.data())
def test_windows_cover_every_token_and_are_full(tokens: int, size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    starts = window_starts(tokens, size, stride)
    covered = np.zeros(tokens, dtype=bool)
    for start in starts:
        assert tokens < size or start + size <= tokens
        covered[start : start + size] = True
    assert covered.all()
    assert starts == sorted(set(starts))
    assert all(b - a <= stride for a, b in itertools.pairwise(starts))


@given(st.text(), st.booleans(), st.sampled_from(["NFC", "NFKC", "none"]), st.booleans())
def test_cleaning_twice_changes_nothing(text: str, lower: bool, form: str, collapse: bool) -> None:
    cleaning = TextCleaning(lowercase=lower, unicode_form=form, collapse_whitespace=collapse)
    once = cleaning.clean(text)
    assert cleaning.clean(once) == once


def test_cleaning_does_what_it_says() -> None:
    assert TextCleaning().clean("  A\n\n b\t\u00a0C ") == "A b C"
    assert TextCleaning(lowercase=True).clean("A B") == "a b"
    assert TextCleaning(collapse_whitespace=False).clean(" a\n b ") == "a\n b"
    assert TextCleaning().clean("e\u0301") == "\u00e9"


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer, TextCleaning(), max_tokens=10, window_stride=6)


def encoded(encoder: Encoder, text: str, on_long: OnLong = "windows") -> EncodedText:
    [result] = encoder.encode([text], on_long)
    assert isinstance(result, EncodedText)
    return result


def ids_of(result: EncodedText) -> list[tuple[int, ...]]:
    return [window.ids for window in result.windows]


def test_special_tokens_in_a_text_are_plain_characters(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, TextCleaning(), max_tokens=50, window_stride=50)
    [ids] = ids_of(encoded(encoder, "a<|endoftext|>"))
    assert tokenizer.token_to_id("<|endoftext|>") not in ids
    assert tokenizer.decode(list(ids)) == "a<|endoftext|>"


def test_one_bad_text_does_not_touch_its_neighbours(encoder: Encoder) -> None:
    good, empty, surrogate, blank, other = encoder.encode(["a goal", "", "x\ud800", " \n\t", "a bank"])
    assert isinstance(good, EncodedText) and isinstance(other, EncodedText)
    assert isinstance(empty, EmptyTextError) and isinstance(blank, EmptyTextError)
    assert isinstance(surrogate, EncodingError) and "unpaired surrogate at character 1" in str(surrogate)
    assert encoder.encode(["a goal"]) == [good]


def test_a_corpus_is_encoded_in_chunks_without_being_read_to_its_end(encoder: Encoder) -> None:
    texts = ["a goal", "", "a bank of the river"]
    expected = list(itertools.islice(itertools.cycle(encoder.encode(texts)), 2 * TEXTS_AT_ONCE + 1))
    endless = encoder.encode_each(itertools.cycle(texts))
    assert repr(list(itertools.islice(endless, 2 * TEXTS_AT_ONCE + 1))) == repr(expected)
    assert list(encoder.encode_each([])) == []


def test_long_text_by_windows_truncated_or_refused(encoder: Encoder) -> None:
    text = "market " * 40
    windows, truncated = encoded(encoder, text, "windows"), encoded(encoder, text, "truncate")
    [refused] = encoder.encode([text], "error")
    assert len(windows.windows) > 1 and not windows.truncated and windows.tokens_read == windows.tokens
    assert all(len(ids) == 10 for ids in ids_of(windows))
    assert ids_of(truncated) == ids_of(windows)[:1]
    assert truncated.truncated and (truncated.tokens_read, truncated.tokens) == (10, windows.tokens)
    assert isinstance(refused, TextTooLongError) and (refused.tokens, refused.limit) == (windows.tokens, 10)


def test_a_text_that_just_fits_is_one_window_in_every_mode(encoder: Encoder) -> None:
    [tokens] = ids_of(encoded(encoder, "profit " * 40, "truncate"))
    text = encoder._tokenizer.decode(list(tokens)).strip()
    modes: tuple[OnLong, ...] = ("windows", "truncate", "error")
    for result in (encoded(encoder, text, mode) for mode in modes):
        assert len(result.windows) == 1 and not result.truncated


def test_window_offsets_name_the_characters(encoder: Encoder) -> None:
    text = "the striker scored a goal in the cup final and the coach said that many more would come"
    result = encoded(encoder, text)
    assert len(result.windows) > 1
    assert result.windows[0].start == 0 and result.windows[-1].end == len(text)
    for window in result.windows:
        assert encoder._tokenizer.decode(list(window.ids)).strip() == text[window.start : window.end].strip()


@given(st.lists(st.text(), max_size=6))
def test_every_text_gets_exactly_one_result(tokenizer_path: Path, texts: list[str]) -> None:
    encoder = Encoder(load_tokenizer(tokenizer_path), TextCleaning(), 10, 6)
    results = encoder.encode(texts)
    assert len(results) == len(texts)
    for text, result in zip(texts, results, strict=True):
        assert isinstance(result, EmptyTextError) == (not text.strip())


def test_stride_above_the_window_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(EncodingError, match=r"window stride must be 1\.\.max_tokens"):
        Encoder(tokenizer, TextCleaning(), max_tokens=4, window_stride=5)


def test_load_tokenizer_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="not a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
    Tokenizer(BPE()).save(
        str(tmp_path / "tokenizer.json")
    )  # as transformers 5 silently makes of vocab.json, merges.txt
    with pytest.raises(ModelError, match="vocabulary is empty"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_gpt2_tokenizer_of_the_real_files(shared: Path, tmp_path: Path) -> None:
    files = shared / "data" / "gpt2-tokenizer"
    bpe = ByteLevelBPETokenizer(str(files / "vocab.json"), str(files / "merges.txt"))
    bpe.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(load_tokenizer(tmp_path / "tokenizer.json"), TextCleaning(), 1024, 768)
    assert ids_of(encoded(encoder, "Hello world")) == [(15496, 995)]


def test_endless_combining_marks_are_cut_and_cost_no_time(encoder: Encoder) -> None:
    """Unicode's reordering of them is quadratic: 200,000 took the whole process for more than a minute."""
    marks = "a" + "\u0301" * 100_000 + "\u0316" * 100_000 + " goal"
    cleaned = TextCleaning().clean(marks)
    assert len(cleaned) < 50 and cleaned.endswith(" goal")
    assert TextCleaning().clean("漢" * 40 + marks) == "漢" * 40 + cleaned
    assert not any(unicodedata.combining(chr(code)) for code in range(0x300)), "clean-up looks from there on"
    assert TextCleaning().clean("Việt Nam, ภาษาไทย, हिन्दी, e\u0301") == "Việt Nam, ภาษาไทย, हिन्दी, \u00e9"


WORDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=60)


@given(WORDS, st.booleans(), st.sampled_from(["NFC", "NFKC", "none"]), st.booleans())
def test_spans_cover_the_text_in_whole_words(
    tokenizer_path: Path, words: list[str], lowercase: bool, form: str, collapse: bool
) -> None:
    cleaning = TextCleaning(unicode_form=form, lowercase=lowercase, collapse_whitespace=collapse)
    text = " \n ".join(words)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    [encoded] = Encoder(tokenizer, cleaning, max_tokens=8, window_stride=5).encode([text])
    if isinstance(encoded, EncodingError):
        return
    spans = original_spans(text, cleaning, encoded.windows)
    assert len(spans) == len(encoded.windows)
    assert spans[0][0] == len(text) - len(text.lstrip())
    assert spans[-1][1] == len(text.rstrip()) or not cleaning.clean(text[spans[-1][1] :])
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert not text[start].isspace() and not text[end - 1].isspace()
        assert (start == 0 or text[start - 1].isspace()) and (end == len(text) or text[end].isspace())


def test_span_of_a_window_is_what_the_model_read(tokenizer: Tokenizer) -> None:
    text = "The  minister said\n\nthat the STRIKER scored. "
    cleaning = TextCleaning(lowercase=True)
    clean = cleaning.clean(text)
    window = Window((1,), clean.index("said"), clean.index(" scored"))
    [(start, end)] = original_spans(text, cleaning, [window])
    assert text[start:end] == "said\n\nthat the STRIKER"
