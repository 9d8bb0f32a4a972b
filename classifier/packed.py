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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch.nn.functional import pad

from classifier import Precision
from classifier.attention import Attention, Span, joined, spans_of
from classifier.errors import ModelError
from classifier.layers import Block, OpenWeights, Shape, read_block, read_norm, safetensors_weights
from classifier.products import ProductMaker

ROWS = 256
"""Number of rows that are computed at once, give or take a half, so that the inner layer of the MLP, four times as
wide, stays in the cache. Products are as fast with 256 rows as with thousands, and GELU is 1.5 times as fast."""

STEP = 16
"""The number of rows is filled up to a multiple of this by a text of its own, because oneDNN keeps compiled code for
each number of rows that it has met, 0.6 MB a number: 1,200 batches of all sizes took 780 MB more memory."""


class PackedClassifier:
    """A classifier with the head `last_token`, its weights laid out once for one precision.

    Args:
        config: a GPT-2 configuration, as in config.json.
        open_weights: opens the weights, named as `GPT2ForSequenceClassification` names them.
        precision: the precision of matrix products.
        device: the device of the weights and of the forward.
        keep: keep all layers in memory. Otherwise each forward lays out one layer after the other and releases it,
            which needs little memory and is meant for a few forwards only.

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
        flash = self.device.type == "cuda" and precision == "bfloat16"
        self.attention = Attention(shape.heads, shape.width // shape.heads, self.device, flash)
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
        batch = self._lay_out(sequences)
        with torch.inference_mode():
            hidden_nd = self._embed(batch)
            blocks = iter(self._blocks or self._read_all())
            for block in islice(blocks, self.layers - 1):
                self._layer(block, hidden_nd, batch.spans)
            logits_bc = self._logits(self._last_layer(next(blocks), hidden_nd, batch))
            return logits_bc[batch.places][: len(sequences)]

    def prefix_logits(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the logits (T, C), float32, on the CPU, of each sequence's prefixes of 1 to T tokens.

        Raises:
            ModelError: as for a call.
        """
        batch = self._lay_out(sequences)
        with torch.inference_mode():
            hidden_nd = self._embed(batch)
            for block in self._blocks or self._read_all():
                self._layer(block, hidden_nd, batch.spans)
            texts = torch.split(self._logits(hidden_nd), batch.lengths)
        return [texts[place] for place in batch.places.tolist()][: len(sequences)]

    def _lay_out(self, sequences: Sequence[Sequence[int]]) -> "_Batch":
        lengths = [len(ids) for ids in sequences]
        if not lengths or not 1 <= min(lengths) <= max(lengths) <= self.max_tokens:
            raise ModelError(f"1 to {self.max_tokens} tokens a sequence are needed, got lengths {lengths[:10]}")
        if missing := -sum(lengths) % STEP:
            sequences, lengths = [*sequences, [0] * missing], [*lengths, missing]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)  # so that texts of one length are neighbours
        lengths = [lengths[i] for i in order]
        return _Batch(
            lengths=lengths,
            places=torch.tensor(order).argsort(),
            ids_n=torch.tensor([token for i in order for token in sequences[i]], device=self.device),
            last_b=torch.tensor([stop - 1 for stop in accumulate(lengths)], device=self.device),
            spans=spans_of(lengths, self.device),
        )

    def layer_timer(self, tokens: int) -> Callable[[int], float]:
        """Return a function that runs the first layer in some number of rounds and returns its median seconds.

        A forward over one text of `tokens` tokens takes about `layers` times as long. Several threads may call the
        function at the same time.
        """
        with torch.inference_mode():
            block = self._read(0, False)
            drawn_nd = torch.randn(tokens, self._tokens_vd.shape[1], device=self.device)

        def measure(rounds: int) -> float:
            seconds = []
            with torch.inference_mode():
                for _ in range(rounds + 1):  # the first round is a warm-up
                    started = time.perf_counter()
                    self._layer(block, drawn_nd.clone(), spans_of([tokens], self.device))
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
                    seconds.append(time.perf_counter() - started)
            return median(seconds[1:])

        return measure

    def _embed(self, batch: "_Batch") -> torch.Tensor:
        """Return the input (N, D) of the first layer."""
        positions_n = torch.tensor(_positions(batch.lengths), device=self.device)
        hidden_nd = self._tokens_vd.index_select(0, batch.ids_n).float()
        hidden_nd += self._positions_td.index_select(0, positions_n)
        return hidden_nd

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits, on the CPU, of outputs of the last layer."""
        return (self._norm(hidden) @ self._head_cd.T).cpu()

    def _layer(self, block: Block, hidden_nd: torch.Tensor, spans: Sequence[Span]) -> None:
        """Run one layer in place."""
        parts = self._parts(hidden_nd)
        normed = [block.norm_1(part) for part in parts]
        # the last layer has two products
        by_product = [joined([product(part) for part in normed]) for product in block.inputs]
        mixed_nd = self.attention(torch.cat(by_product, dim=1) if len(by_product) > 1 else by_product[0], spans)
        for part, mixed in zip(parts, self._parts(mixed_nd), strict=True):
            self._mix(block, part, mixed)

    def _last_layer(self, block: Block, hidden_nd: torch.Tensor, batch: "_Batch") -> torch.Tensor:
        """Return the output (B, D) of the last layer for the last token of each text."""
        make_query, make_key_value = block.inputs
        parts = [block.norm_1(part) for part in self._parts(hidden_nd)]
        key_value = joined([make_key_value(part) for part in parts])
        texts = len(batch.lengths)
        last_b = pad(batch.last_b, (0, -texts % STEP))
        hidden_bd, query_bd = hidden_nd[last_b], make_query(joined(parts)[last_b])
        mixed_bd = self.attention.last(query_bd[:texts], key_value, batch.spans)
        self._mix(block, hidden_bd, pad(mixed_bd, (0, 0, 0, len(last_b) - texts)))
        return hidden_bd[:texts]

    def _mix(self, block: Block, hidden_nd: torch.Tensor, mixed_nd: torch.Tensor) -> None:
        """Add the outputs of attention and MLP to the hidden states, in place."""
        hidden_nd += block.project(mixed_nd)
        hidden_nd += block.narrow(block.widen(block.norm_2(hidden_nd)))

    def _parts(self, rows_nd: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return views of the rows that are computed at once."""
        if self.device.type != "cpu":
            return [rows_nd]
        count = max(1, round(len(rows_nd) / ROWS))
        return [rows_nd] if count == 1 else torch.split(rows_nd, -(-len(rows_nd) // (count * STEP)) * STEP)


class _Batch(NamedTuple):
    """Texts laid end to end in ascending order of their lengths, perhaps with a text of zeros to fill up the rows."""

    lengths: list[int]
    places: torch.Tensor
    """(B,) int64, on the CPU: place of each sequence of the caller."""
    ids_n: torch.Tensor
    """(N,) int64: token ids."""
    last_b: torch.Tensor
    """(B,) int64: row of the last token of each text."""
    spans: list[Span]


def _positions(lengths: Sequence[int]) -> list[int]:
    """Return the positions of all tokens, counted from 0 in each text."""
    return [position for length in lengths for position in range(length)]
