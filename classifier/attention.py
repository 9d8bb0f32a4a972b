"""Causal attention within each text of a packed batch, by one of several kernels.

    flash    PyTorch's variable-length kernel: all texts in one call, on CUDA, 16-bit floats only
    fused    PyTorch's scaled_dot_product_attention for several texts together
    blocks   matrix products and softmax over a block of queries and the keys up to its end

The kernel of `scaled_dot_product_attention` for CPUs calls small matrix products for one head at a time. With one
thread, `blocks` is faster in bfloat16, and in float32 for texts of `LONG` tokens or more: 1.9 and 1.4 times as fast
with 440 tokens and 12 heads on a Zen 4.

Scores are not scaled here; the weights of the query contain the factor.

Letters: N tokens of all texts, B texts, T tokens of one text, D width, H attention heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, groupby

import torch
from torch.nn.functional import scaled_dot_product_attention

from classifier.errors import first_line

LONG = 64
"""Texts with fewer tokens are padded on the right and computed together: a call costs more than the padding."""

BLOCK = {torch.float32: 64, torch.bfloat16: 128}
"""Number of queries of a block."""


@dataclass(frozen=True)
class Span:
    """Some texts laid end to end from row `start` on, whose attention is computed together."""

    start: int
    lengths: Sequence[int]
    """Number of tokens of each text, in ascending order."""
    padded: torch.Tensor | None = None
    """(count * length,) int64: row of each token; None: no text is padded."""
    packed: torch.Tensor | None = None
    """(stop - start,) int64: place of each row among the padded tokens."""
    mask: torch.Tensor | None = None
    """(count, 1, 1, length) bool: true on real tokens."""

    @property
    def stop(self) -> int:
        return self.start + sum(self.lengths)

    @property
    def count(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Number of tokens of each text with padding on the right, for which causal attention needs no mask."""
        return self.lengths[-1]


def spans_of(lengths: Sequence[int], device: torch.device) -> list[Span]:
    """Group texts that follow each other, in ascending order of their lengths."""
    spans: list[Span] = []
    start = 0
    for _, run in groupby(lengths, key=lambda length: length if length >= LONG else 0):
        texts = list(run)
        if texts[0] == texts[-1]:
            spans.append(Span(start, texts))
        else:
            lengths_b1 = torch.tensor(texts, device=device)[:, None]
            columns_t = torch.arange(texts[-1], device=device)
            real_bt = columns_t < lengths_b1
            rows_bt = start + torch.where(real_bt, lengths_b1.cumsum(0) - lengths_b1 + columns_t, 0)
            packed = real_bt.flatten().nonzero().flatten()
            spans.append(Span(start, texts, rows_bt.flatten(), packed, real_bt[:, None, None]))
        start = spans[-1].stop
    return spans


class Attention:
    """Attention of `heads` heads.

    `kernel` names the kernel: "flash", or "plain" for the others, perhaps followed by the reason.

    Args:
        heads: number of heads.
        head_width: width of a head.
        device: the device of all tensors.
        flash: use the flash kernel if it runs here.
    """

    def __init__(self, heads: int, head_width: int, device: torch.device, flash: bool) -> None:
        self._heads = heads
        problem = flash_problem(heads, head_width, device) if flash else None
        self.kernel = f"plain; flash is unavailable: {problem}" if problem else "flash" if flash else "plain"

    def __call__(self, qkv: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
        """Return causal attention (N, D) within each text. `qkv` has query, key and value of each token, (N, 3 D)."""
        if self.kernel == "flash":
            return self._flash(qkv, spans)
        one_thread = qkv.device.type == "cpu" and torch.get_num_threads() == 1
        mixed = []
        for span in spans:
            q, k, v = self._by_head(qkv, 3, span)
            if one_thread and (span.length >= LONG or qkv.dtype is torch.bfloat16):
                rows = _blocks(q, k, v)
            else:
                rows = _rows(scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0))
            mixed.append(rows if span.packed is None else rows.index_select(0, span.packed))
        return joined(mixed)

    def last(self, query_bd: torch.Tensor, key_value: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
        """Return the attention (B, D) of the last token of each text.

        Args:
            query_bd: (B, D), the query of each text's last token.
            key_value: (N, 2 D), key and value of each token.
            spans: the texts.
        """
        mixed = []
        for span, query in zip(spans, torch.split(query_bd, [span.count for span in spans]), strict=True):
            k, v = self._by_head(key_value, 2, span)
            q = query.view(span.count, self._heads, 1, -1)
            mixed.append(_rows(scaled_dot_product_attention(q, k, v, attn_mask=span.mask, scale=1.0)))
        return joined(mixed)

    def _flash(self, qkv: torch.Tensor, spans: Sequence[Span]) -> torch.Tensor:
        from torch.nn.attention.varlen import varlen_attn

        lengths = [length for span in spans for length in span.lengths]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=qkv.device)
        q, k, v = qkv.view(len(qkv), 3, self._heads, -1).unbind(1)
        # (-1, 0): every token attends to all tokens before it and to none after it
        mixed = varlen_attn(q, k, v, starts, starts, max(lengths), max(lengths), scale=1.0, window_size=(-1, 0))
        assert isinstance(mixed, torch.Tensor)
        return mixed.flatten(1)

    def _by_head(self, rows: torch.Tensor, parts: int, span: Span) -> Sequence[torch.Tensor]:
        """Return the rows of a span, each of `parts` parts, as one (B, H, T, D / H) for each part."""
        # index_select is several times as fast as rows[span.padded]
        rows = rows[span.start : span.stop] if span.padded is None else rows.index_select(0, span.padded)
        return rows.view(span.count, span.length, parts, self._heads, -1).permute(2, 0, 3, 1, 4).unbind()


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the rows of all parts, without a copy if there is only one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _rows(mixed: torch.Tensor) -> torch.Tensor:
    """Return (B, H, T, D / H) as rows (B T, D)."""
    texts, heads, length, width = mixed.shape
    return mixed.transpose(1, 2).reshape(texts * length, heads * width)


def _blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return causal attention as rows (B T, D) of query, key and value, each (B, H, T, D / H)."""
    texts, heads, length, width = query.shape
    size = BLOCK[query.dtype]
    # several texts are copied; the heads of one text are only viewed
    q, k, v = (part.reshape(texts * heads, length, width) for part in (query, key, value))
    k = k.transpose(1, 2)
    mixed = torch.empty(texts, length, heads, width, dtype=query.dtype)
    for start in range(0, length, size):
        stop = min(start + size, length)
        scores = torch.bmm(q[:, start:stop], k[:, :, :stop])
        scores[:, :, start:].add_(_mask(size, query.dtype)[: stop - start, : stop - start])
        block = torch.bmm(torch.softmax(scores, dim=2), v[:, :stop])
        mixed[:, start:stop] = block.view(texts, heads, stop - start, width).transpose(1, 2)
    return mixed.view(texts * length, heads * width)


@cache
def _mask(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return (size, size) with minus infinity where a query must not see a key, else 0."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)


def flash_problem(heads: int, head_width: int, device: torch.device) -> str | None:
    """Return why the flash kernel cannot run with this shape on this device; None: it can.

    Only running it tells: it needs compute capability 8.0 and head widths that are multiples of 8 up to 256, and not
    every build of PyTorch has it.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn

        rows = torch.zeros(2, heads, head_width, dtype=torch.bfloat16, device=device)
        starts = torch.tensor([0, 2], dtype=torch.int32, device=device)
        varlen_attn(rows, rows, rows, starts, starts, 2, 2, window_size=(-1, 0))
        torch.cuda.synchronize(device)
    except Exception as exc:  # of many classes: RuntimeError, NotImplementedError, ImportError, AcceleratorError ...
        return first_line(exc)
    return None
