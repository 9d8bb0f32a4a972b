"""The packed forward: texts laid end to end without padding, and the last layer for last tokens only.

GPT-2 is causal, so the B texts of a batch can lie end to end in one (N, D) matrix, N being all their tokens together.
Linear layers, norms and GELU run over all N rows at once; only attention runs text by text (texts of one length
together), or by a variable-length kernel on CUDA. The head reads each text's last token alone, so in the last layer
only B rows need a query, a projection and an MLP, and the other rows only give keys and values. The answers equal those
of the reference (`classifier.model`); property tests check this for each precision.

This module, `classifier.layers` and `classifier.products` do not import transformers, which takes as long to import as
torch.

Letters: B texts, N tokens of all texts, T tokens of one text, D width, H attention heads, C labels.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.nn.functional import scaled_dot_product_attention

from classifier import Precision
from classifier.errors import ModelError, first_line
from classifier.layers import Block, OpenWeights, Shape, read_block, read_norm, safetensors_weights
from classifier.products import ProductMaker

ROWS = 256
"""Number of rows that the MLP computes at once, so that its inner layer, four times as wide, stays in the processor's
cache. float32 products are as fast with 256 rows as with thousands, and GELU is 1.5 times as fast as from memory."""


@dataclass(frozen=True)
class _Span:
    """`count` texts of `length` tokens each, laid end to end from row `start` on."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


class PackedClassifier:
    """A classifier with the head `last_token`, its weights laid out once for one precision.

    Args:
        config: a GPT-2 configuration, as in config.json.
        open_weights: opens the weights, named as `GPT2ForSequenceClassification` names them.
        precision: the precision of matrix products.
        device: the device of the weights and of the forward.
        keep: keep all layers in memory. Otherwise each forward lays out one layer after the other and releases it,
            which needs little memory and is meant for a few forwards only.

    `attention` names the kernel of attention: "flash", or "plain", perhaps followed by the reason.

    Raises:
        ModelError: the configuration is not a GPT-2's, or the weights do not fit it. Unless `keep`, the weights of
            layers are first checked in a forward.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        open_weights: OpenWeights,
        precision: Precision = "float32",
        device: str = "cpu",
        keep: bool = True,
    ) -> None:
        shape = Shape.of(config)
        self.precision: Precision = precision
        self.device = torch.device(device)
        self.layers = shape.layers
        self._heads = shape.heads
        self.attention = self._choose_attention(shape.width // shape.heads)
        make = ProductMaker(precision, self.device)
        self._read = partial(read_block, shape, open_weights, make)  # a closure over self would delay freeing it
        with torch.inference_mode():
            with open_weights() as read:
                # looked up row by row and then made float32, because most rows are never read from the file
                self._tokens_vd = read("transformer.wte.weight").to(self.device)
                self._positions_td = read("transformer.wpe.weight").to(self.device)
                self._norm = read_norm(read, "transformer.ln_f", shape, self.device)
                self._head_cd = read("score.weight").to(self.device, torch.float32)
            self._blocks = list(self._read_all()) if keep else None
        self.parameters = shape.parameters(*self._tokens_vd.shape, *self._positions_td.shape, *self._head_cd.shape)
        if self._tokens_vd.shape[1] != shape.width or self._positions_td.shape[1] != shape.width:
            raise ModelError(f"embeddings are {self._tokens_vd.shape[1]} wide, config.json says {shape.width}")

    def _choose_attention(self, head_width: int) -> str:
        """Return "flash" where its kernel applies, else "plain", with the reason if the flash kernel fails here."""
        if self.device.type != "cuda" or self.precision != "bfloat16":
            return "plain"
        problem = flash_problem(self._heads, head_width, self.device)
        return f"plain; flash is unavailable: {problem}" if problem else "flash"

    def _read_all(self) -> Iterator[Block]:
        return (self._read(index, index == self.layers - 1) for index in range(self.layers))

    @classmethod
    def load(
        cls, directory: Path, precision: Precision = "float32", device: str = "cpu", keep: bool = True
    ) -> "PackedClassifier":
        """Load the classifier from a directory with `config.json` and `model.safetensors`.

        Raises:
            ModelError: a file is missing or unreadable, the weights do not fit, or the head is another one.
        """
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            return cls(config, safetensors_weights(directory / "model.safetensors", copy=keep), precision, device, keep)
        except (OSError, ValueError, KeyError, SafetensorError) as exc:
            raise ModelError(f"{directory}: the weights cannot be loaded: {exc}") from exc

    @property
    def outputs(self) -> int:
        """Number of labels, C."""
        return len(self._head_cd)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self._tokens_vd)

    @property
    def max_tokens(self) -> int:
        """Number of tokens of the longest text that the model reads."""
        return len(self._positions_td)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits (B, C), float32, on the CPU, of B sequences of token ids.

        Raises:
            ModelError: there is no sequence, or one is empty or has more tokens than the model has positions.
        """
        lengths = [len(ids) for ids in sequences]
        if not lengths or not 1 <= min(lengths) <= max(lengths) <= self.max_tokens:
            raise ModelError(f"1 to {self.max_tokens} tokens a sequence are needed, got lengths {lengths[:10]}")
        order = sorted(range(len(lengths)), key=lengths.__getitem__)  # so that texts of one length are neighbours
        spans = _spans([lengths[i] for i in order])
        with torch.inference_mode():
            ids_n = torch.tensor([token for i in order for token in sequences[i]], device=self.device)
            last_b = torch.tensor(list(accumulate(lengths[i] for i in order)), device=self.device) - 1
            hidden_bd = self._hidden(ids_n, last_b, spans)
            logits_bc = torch.empty(len(lengths), len(self._head_cd))
            logits_bc[order] = (self._norm(hidden_bd) @ self._head_cd.T).cpu()
        return logits_bc

    def layer_seconds(self, tokens: int, rounds: int) -> float:
        """Return the seconds of one layer over one text of `tokens` tokens, the best of several rounds.

        A forward takes about `layers` times as long.
        """
        with torch.inference_mode():
            block = self._read(0, False)
            hidden_nd = torch.randn(tokens, self._tokens_vd.shape[1], device=self.device)
            seconds = []
            for _ in range(rounds + 1):  # the first round is a warm-up
                started = time.perf_counter()
                self._layer(block, hidden_nd.clone(), [_Span(0, 1, tokens)])
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds.append(time.perf_counter() - started)
        return min(seconds[1:])

    def _hidden(self, ids_n: torch.Tensor, last_b: torch.Tensor, spans: Sequence[_Span]) -> torch.Tensor:
        """Return the output (B, D) of the last layer for the last token of each text."""
        positions_n = _positions(spans).to(self.device)
        hidden_nd = self._tokens_vd[ids_n].float() + self._positions_td[positions_n].float()
        blocks = iter(self._blocks or self._read_all())
        for block in islice(blocks, self.layers - 1):
            self._layer(block, hidden_nd, spans)
        return self._last_layer(next(blocks), hidden_nd, last_b, spans)

    def _layer(self, block: Block, hidden_nd: torch.Tensor, spans: Sequence[_Span]) -> None:
        """Run one layer in place."""
        [qkv] = block.inputs
        query, key, value = qkv(block.norm_1(hidden_nd)).chunk(3, dim=1)
        hidden_nd += block.project(self._attend(query, key, value, spans, block.scale))
        self._mlp(block, hidden_nd)

    def _last_layer(
        self, block: Block, hidden_nd: torch.Tensor, last_b: torch.Tensor, spans: Sequence[_Span]
    ) -> torch.Tensor:
        """Return the output (B, D) of the last layer for the last token of each text."""
        make_query, make_key_value = block.inputs
        hidden_bd, normed_nd = hidden_nd[last_b], block.norm_1(hidden_nd)
        key, value = make_key_value(normed_nd).chunk(2, dim=1)
        hidden_bd += block.project(self._attend_last(make_query(normed_nd[last_b]), key, value, spans, block.scale))
        self._mlp(block, hidden_bd)
        return hidden_bd

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[_Span], scale: float
    ) -> torch.Tensor:
        """Return causal attention within each text: query, key, value and result are (N, D)."""
        if self.attention == "flash":
            return self._attend_varlen(query, key, value, spans, scale)
        mixed_nd = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        for span in spans:
            q, k, v = (self._by_head(part[span.start : span.stop], span.count) for part in (query, key, value))
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            self._by_head(mixed_nd[span.start : span.stop], span.count).copy_(attended)
        return mixed_nd

    def _attend_last(
        self, query_bd: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[_Span], scale: float
    ) -> torch.Tensor:
        """Return the attention of the last token of each text: query and result are (B, D), key and value (N, D)."""
        mixed_bd = torch.empty(query_bd.shape, dtype=query_bd.dtype, device=query_bd.device)
        first = 0
        for span in spans:
            rows = slice(first, first + span.count)
            k, v = (self._by_head(part[span.start : span.stop], span.count) for part in (key, value))
            attended = scaled_dot_product_attention(self._by_head(query_bd[rows], span.count), k, v, scale=scale)
            self._by_head(mixed_bd[rows], span.count).copy_(attended)
            first += span.count
        return mixed_bd

    def _attend_varlen(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[_Span], scale: float
    ) -> torch.Tensor:
        """Do the same as `_attend` in one call of the flash kernel for texts of different lengths.

        The kernel takes 16-bit floats only.
        """
        from torch.nn.attention.varlen import varlen_attn

        lengths = [span.length for span in spans for _ in range(span.count)]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)
        q, k, v = (part.view(len(part), self._heads, -1) for part in (query, key, value))
        # (-1, 0): every token attends to all tokens before it and to none after it
        mixed = varlen_attn(q, k, v, starts, starts, max(lengths), max(lengths), scale=scale, window_size=(-1, 0))
        assert isinstance(mixed, torch.Tensor)
        return mixed.flatten(1)

    def _mlp(self, block: Block, hidden_nd: torch.Tensor) -> None:
        """Add the output of norm and MLP to the hidden states, in place."""
        rows = ROWS if self.device.type == "cpu" else len(hidden_nd)
        for start in range(0, len(hidden_nd), rows):
            part = hidden_nd[start : start + rows]
            part.add_(block.narrow(block.widen(block.norm_2(part))))

    def _by_head(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """View (count * T, D) as (count, H, T, D / H)."""
        return rows.view(count, -1, self._heads, rows.shape[1] // self._heads).transpose(1, 2)


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


def _spans(lengths: Sequence[int]) -> list[_Span]:
    """Group runs of equal lengths."""
    spans: list[_Span] = []
    start = 0
    for length, run in groupby(lengths):
        spans.append(_Span(start, len(list(run)), length))
        start = spans[-1].stop
    return spans


def _positions(spans: Sequence[_Span]) -> torch.Tensor:
    """Return the positions (N,), counted from 0 in each text."""
    return torch.cat([torch.arange(span.length).repeat(span.count) for span in spans])
