"""Every kernel of attention gives what attention is: softmax over the keys up to the query, text by text."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.attention import BLOCK, LONG, Attention, flash_problem, spans_of

HEADS, WIDTH = 3, 8
CPU = torch.device("cpu")
lengths = st.lists(
    st.one_of(st.integers(1, 40), st.sampled_from([LONG - 1, LONG, LONG + 1, BLOCK[torch.bfloat16], 200])),
    min_size=1,
    max_size=4,
).map(sorted)


def drawn(rows: int, dtype: torch.dtype) -> torch.Tensor:
    torch.manual_seed(rows)
    return (torch.randn(rows, 3 * HEADS * WIDTH) / 2).to(dtype)


def by_definition(qkv: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Return attention in float64, one text after the other."""
    texts = []
    for text in (part.chunk(3, dim=1) for part in qkv.double().split(lengths)):
        q, k, v = (part.view(len(part), HEADS, WIDTH).transpose(0, 1) for part in text)
        scores = (q @ k.transpose(1, 2)).masked_fill(~torch.ones(q.shape[1], q.shape[1]).tril().bool(), -1e300)
        texts.append((scores.softmax(2) @ v).transpose(0, 1).flatten(1))
    return torch.cat(texts)


@settings(max_examples=60, deadline=None)
@given(lengths, st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([1, 2]))
def test_attention_is_causal_within_each_text(lengths: list[int], dtype: torch.dtype, threads: int) -> None:
    qkv = drawn(sum(lengths), dtype)
    attention = Attention(HEADS, WIDTH, CPU, flash=False)
    with mock.patch("torch.get_num_threads", return_value=threads):  # it decides between two kernels
        got = attention(qkv, spans_of(lengths, CPU))
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(got.double(), by_definition(qkv, lengths), atol=tolerance, rtol=tolerance)
    last = torch.tensor(lengths).cumsum(0) - 1
    query, key_value = qkv.split([HEADS * WIDTH, 2 * HEADS * WIDTH], dim=1)
    torch.testing.assert_close(
        attention.last(query[last], key_value, spans_of(lengths, CPU)), got[last], atol=tolerance, rtol=tolerance
    )


def test_flash_that_cannot_run_here_is_a_reason() -> None:
    problem = flash_problem(HEADS, 12, CPU)
    assert problem is not None and "flash_attention" in problem and "\n" not in problem


def test_flash_that_fails_gives_way_to_the_plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = drawn(7, torch.bfloat16)
    monkeypatch.setattr("classifier.attention.flash_problem", lambda *_: "it needs compute capability 8.0")
    attention = Attention(HEADS, WIDTH, CPU, flash=True)
    assert attention.kernel == "plain; flash is unavailable: it needs compute capability 8.0"
    plain = Attention(HEADS, WIDTH, CPU, flash=False)
    assert torch.equal(attention(qkv, spans_of([3, 4], CPU)), plain(qkv, spans_of([3, 4], CPU)))
    attention.kernel = "flash"
    with pytest.raises(NotImplementedError, match="flash_attention"):
        attention(qkv, spans_of([3, 4], CPU))
