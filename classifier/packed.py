"""The forward over texts laid end to end: no padding, and the last layer for last tokens only.

GPT-2 is causal, so the B texts of a batch can lie end to end in one (N, D) matrix, N being all their tokens together.
Linear layers, norms and GELU run over all N rows at once; only attention runs text by text (texts of one length
together), or by a variable-length kernel on CUDA. The head reads each text's last token alone, so in the last layer
only B rows need a query, a projection and an MLP; the others only serve as its keys and values. The answers equal the
reference's (`classifier.model`), which property tests hold for each precision.

Weights come straight from the artifact's safetensors file, which is mapped and let go of tensor by tensor, so that no
second copy is ever whole. Nothing of the mapping stays: who overwrote the file would change the answers, who truncated
it would end the process. This module imports no transformers, which alone takes as long to import as torch.

Letters: B texts, N tokens of all texts, T tokens of one text, D width, H attention heads, C labels.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from classifier.errors import ModelError

Precision = Literal["float32", "bfloat16", "int8"]
"""Of matrix products; norms, GELU, softmax and the residual stream are float32 in each.

float32: the reference's.
bfloat16: weights and inputs rounded to it, sums in float32.
int8: in the products after attention, weights in 63 steps either side of zero for each column (127 with VNNI), inputs
    in 255 for each token. Sums are exact: without VNNI, x86 adds pairs of products in 16 bits, and 255 x 63 twice fits
    there (255 x 127 does not). Query, key and value stay float32, because softmax multiplies their errors (without
    that, logits were 3.6 times as far off), and so does the last layer, whose products are a row a text.
"""

Get = Callable[[str], torch.Tensor]
"""A weight by its name in the file."""

Source = Callable[[], AbstractContextManager[Get]]
"""Opens the weights; what was got and not copied keeps the file mapped after it is closed."""

ROWS = 256
"""Rows of the MLP at once: its inner layer, four times as wide, then stays in the processor's cache. float32 products
run as fast from 256 rows as from thousands, GELU 1.5 times as fast as from memory."""


class _Product(Protocol):
    """A matrix product with its weights and bias laid out, and what may follow it."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(N, in) float32 to (N, out) float32."""


@dataclass(frozen=True)
class _Norm:
    """Layer norm over the last dimension."""

    weight_d: torch.Tensor
    bias_d: torch.Tensor
    epsilon: float

    def __call__(self, rows_nd: torch.Tensor) -> torch.Tensor:
        return layer_norm(rows_nd, self.weight_d.shape, self.weight_d, self.bias_d, self.epsilon)


@dataclass(frozen=True)
class _Block:
    """One layer."""

    norm_1: _Norm
    inputs: tuple[_Product, ...]
    """Query, key and value in one product; in the last layer the query, and key and value, in two."""
    project: _Product
    norm_2: _Norm
    widen: _Product
    """With the activation."""
    narrow: _Product
    scale: float
    """What attention scores are multiplied with."""


@dataclass(frozen=True)
class _Span:
    """`count` texts of `length` tokens each, end to end from row `start`."""

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
        source: opens the weights, named as `GPT2ForSequenceClassification` names them.
        precision: of matrix products.
        device: where the weights go and the forward runs.
        keep: hold all layers; else each forward lays out one layer after the other and lets it go, which needs little
            memory and is for a few forwards only.

    Raises:
        ModelError: a configuration that is not GPT-2's, or weights that do not fit it. Unless `keep`, weights of
            layers are only looked at in a forward.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        source: Source,
        precision: Precision = "float32",
        device: str = "cpu",
        keep: bool = True,
    ) -> None:
        shape = _Shape.of(config)
        self.precision: Precision = precision
        self.device = torch.device(device)
        self.layers = shape.layers
        self._heads = shape.heads
        make = _Maker(precision, self.device)
        self._read = partial(_read_block, shape, source, make)  # no closure over self: it would be freed late
        with torch.inference_mode():
            with source() as get:
                # looked up row by row and only then made float32: most rows are never read from the file
                self._tokens_vd = get("transformer.wte.weight").to(self.device)
                self._positions_td = get("transformer.wpe.weight").to(self.device)
                self._norm = _norm(get, "transformer.ln_f", shape, self.device)
                self._head_cd = get("score.weight").to(self.device, torch.float32)
            self._blocks = list(self._read_all()) if keep else None
        self.parameters = shape.parameters(*self._tokens_vd.shape, *self._positions_td.shape, *self._head_cd.shape)
        if self._tokens_vd.shape[1] != shape.width or self._positions_td.shape[1] != shape.width:
            raise ModelError(f"embeddings are {self._tokens_vd.shape[1]} wide, config.json says {shape.width}")

    def _read_all(self) -> Iterator[_Block]:
        return (self._read(index, index == self.layers - 1) for index in range(self.layers))

    @classmethod
    def load(
        cls, directory: Path, precision: Precision = "float32", device: str = "cpu", keep: bool = True
    ) -> "PackedClassifier":
        """The classifier of an artifact's directory, with `config.json` and `model.safetensors`.

        Raises:
            ModelError: files missing or unreadable, weights that do not fit, or another head.
        """
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            return cls(config, _mapped(directory / "model.safetensors", copy=keep), precision, device, keep)
        except (OSError, ValueError, KeyError, SafetensorError) as exc:
            raise ModelError(f"{directory}: the weights cannot be loaded: {exc}") from exc

    @property
    def outputs(self) -> int:
        """C."""
        return len(self._head_cd)

    @property
    def vocabulary(self) -> int:
        """Ids are below this."""
        return len(self._tokens_vd)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text."""
        return len(self._positions_td)

    def __call__(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, C) float32 on the CPU of B sequences of ids.

        Raises:
            ModelError: no sequence, an empty one, or one of more tokens than the model has positions.
        """
        lengths = [len(ids) for ids in sequences]
        if not lengths or not 1 <= min(lengths) <= max(lengths) <= self.max_tokens:
            raise ModelError(f"1 to {self.max_tokens} tokens a sequence are needed, got lengths {lengths[:10]}")
        order = sorted(range(len(lengths)), key=lengths.__getitem__)  # texts of one length lie side by side
        spans = _spans([lengths[i] for i in order])
        with torch.inference_mode():
            ids_n = torch.tensor([token for i in order for token in sequences[i]], device=self.device)
            last_b = torch.tensor(list(accumulate(lengths[i] for i in order)), device=self.device) - 1
            hidden_bd = self._hidden(ids_n, last_b, spans)
            logits_bc = torch.empty(len(lengths), len(self._head_cd))
            logits_bc[order] = (self._norm(hidden_bd) @ self._head_cd.T).cpu()
        return logits_bc

    def layer_seconds(self, tokens: int, rounds: int) -> float:
        """Least seconds of one layer over one text of so many tokens: a forward takes about `layers` times that."""
        with torch.inference_mode():
            block = self._read(0, False)
            hidden_nd = torch.randn(tokens, self._tokens_vd.shape[1], device=self.device)
            seconds = []
            for _ in range(rounds + 1):  # the first one is for warming up
                started = time.perf_counter()
                self._layer(block, hidden_nd.clone(), [_Span(0, 1, tokens)])
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds.append(time.perf_counter() - started)
        return min(seconds[1:])

    def _hidden(self, ids_n: torch.Tensor, last_b: torch.Tensor, spans: Sequence[_Span]) -> torch.Tensor:
        """The last layer's output (B, D) for the last token of each text."""
        positions_n = _positions(spans).to(self.device)
        hidden_nd = self._tokens_vd[ids_n].float() + self._positions_td[positions_n].float()
        blocks = iter(self._blocks or self._read_all())
        for block in islice(blocks, self.layers - 1):
            self._layer(block, hidden_nd, spans)
        return self._last_layer(next(blocks), hidden_nd, last_b, spans)

    def _layer(self, block: _Block, hidden_nd: torch.Tensor, spans: Sequence[_Span]) -> None:
        """One layer, in place."""
        [qkv] = block.inputs
        query, key, value = qkv(block.norm_1(hidden_nd)).chunk(3, dim=1)
        hidden_nd += block.project(self._attend(query, key, value, spans, block.scale))
        self._mlp(block, hidden_nd)

    def _last_layer(
        self, block: _Block, hidden_nd: torch.Tensor, last_b: torch.Tensor, spans: Sequence[_Span]
    ) -> torch.Tensor:
        """The last layer's output (B, D) for the last token of each text."""
        make_query, make_key_value = block.inputs
        hidden_bd, normed_nd = hidden_nd[last_b], block.norm_1(hidden_nd)
        key, value = make_key_value(normed_nd).chunk(2, dim=1)
        hidden_bd += block.project(self._attend_last(make_query(normed_nd[last_b]), key, value, spans, block.scale))
        self._mlp(block, hidden_bd)
        return hidden_bd

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Sequence[_Span], scale: float
    ) -> torch.Tensor:
        """Causal attention within each text: (N, D) each to (N, D)."""
        if self.device.type == "cuda" and query.dtype is torch.bfloat16:
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
        """Attention of each text's last token: (B, D), (N, D), (N, D) to (B, D)."""
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
        """As `_attend`, in one call of the flash kernel for texts of various lengths, which takes 16 bits only."""
        from torch.nn.attention.varlen import varlen_attn

        lengths = [span.length for span in spans for _ in range(span.count)]
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self.device)
        q, k, v = (part.view(len(part), self._heads, -1) for part in (query, key, value))
        # (-1, 0): every token sees all before it and none after
        mixed = varlen_attn(q, k, v, starts, starts, max(lengths), max(lengths), scale=scale, window_size=(-1, 0))
        assert isinstance(mixed, torch.Tensor)
        return mixed.flatten(1)

    def _mlp(self, block: _Block, hidden_nd: torch.Tensor) -> None:
        """Norm, widen, activation and narrow, added in place."""
        rows = ROWS if self.device.type == "cpu" else len(hidden_nd)
        for start in range(0, len(hidden_nd), rows):
            part = hidden_nd[start : start + rows]
            part.add_(block.narrow(block.widen(block.norm_2(part))))

    def _by_head(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """(count * T, D) to (count, H, T, D / H), without a copy."""
        return rows.view(count, -1, self._heads, rows.shape[1] // self._heads).transpose(1, 2)


@dataclass(frozen=True)
class _Shape:
    """What of a GPT-2 configuration the forward depends on."""

    width: int
    inner: int
    heads: int
    layers: int
    epsilon: float
    activation: str
    scaled: bool
    scaled_by_layer: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "_Shape":
        """Raises ModelError."""
        if config.get("model_type") != "gpt2" or "flatten_tokens" in config:
            kind = "a GPT-2 with the head 'flatten'" if "flatten_tokens" in config else f"{config.get('model_type')!r}"
            raise ModelError(
                f"config.json describes {kind}; the packed forward is for GPT-2 with the head 'last_token'"
            )
        width = config["n_embd"]
        if config["activation_function"] not in _ACTIVATIONS:
            raise ModelError(
                f"config.json: activation_function {config['activation_function']!r} is not one of "
                f"{', '.join(sorted(_ACTIVATIONS))}"
            )
        return cls(
            width=width,
            inner=config.get("n_inner") or 4 * width,
            heads=config["n_head"],
            layers=config["n_layer"],
            epsilon=config["layer_norm_epsilon"],
            activation=config["activation_function"],
            scaled=config.get("scale_attn_weights", True),
            scaled_by_layer=config.get("scale_attn_by_inverse_layer_idx", False),
        )

    def parameters(self, *outside: int) -> int:
        """Parameters of the layers, the last norm, and matrices of these (rows, columns, rows, columns ...)."""
        width, inner = self.width, self.inner
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        return self.layers * layer + 2 * width + sum(a * b for a, b in zip(outside[::2], outside[1::2], strict=True))


def _read_block(shape: _Shape, source: Source, make: "_Maker", index: int, last: bool) -> _Block:
    scale = float((shape.width // shape.heads) ** -0.5) if shape.scaled else 1.0
    if shape.scaled_by_layer:
        scale /= index + 1
    prefix, width = f"transformer.h.{index}.", shape.width
    columns = (slice(0, width), slice(width, None)) if last else (slice(None),)

    def product(name: str, inputs: int, outputs: int, part: slice = slice(None), **kind: Any) -> _Product:
        # A mapping of its own: one that a weight used as stored keeps open would keep in memory what was read of
        # its neighbours, too.
        with source() as get:
            weight_io, bias_o = get(f"{prefix}{name}.weight"), get(f"{prefix}{name}.bias")
            if weight_io.shape != (inputs, outputs) or bias_o.shape != (outputs,):
                raise ModelError(
                    f"{prefix}{name}: weights of {tuple(weight_io.shape)} and bias of {tuple(bias_o.shape)}, "
                    f"config.json asks for {(inputs, outputs)} and {(outputs,)}"
                )
            return make.product(weight_io[:, part], bias_o[part], exact=last or name == "attn.c_attn", **kind)

    with source() as get:
        norm_1, norm_2 = (_norm(get, f"{prefix}{name}", shape, make.device) for name in ("ln_1", "ln_2"))
    return _Block(
        norm_1=norm_1,
        inputs=tuple(product("attn.c_attn", width, 3 * width, part, low_out=True) for part in columns),
        project=product("attn.c_proj", width, width),
        norm_2=norm_2,
        widen=product("mlp.c_fc", width, shape.inner, activation=shape.activation, low_out=True),
        narrow=product("mlp.c_proj", shape.inner, width),
        scale=scale,
    )


def _spans(lengths: Sequence[int]) -> list[_Span]:
    """Runs of equal lengths."""
    spans: list[_Span] = []
    start = 0
    for length, run in groupby(lengths):
        spans.append(_Span(start, len(list(run)), length))
        start = spans[-1].stop
    return spans


def _positions(spans: Sequence[_Span]) -> torch.Tensor:
    """(N,) positions, counted from 0 in each text."""
    return torch.cat([torch.arange(span.length).repeat(span.count) for span in spans])


def _mapped(path: Path, copy: bool) -> Source:
    """Weights of a safetensors file, mapped anew each time, so that a layer that was copied leaves nothing behind.

    With `copy` nothing of the mapping is kept: else a file that is overwritten in place would change the answers of a
    running service, and one that is truncated would end it by SIGBUS.
    """

    @contextmanager
    def source() -> Iterator[Get]:
        with safe_open(path, framework="pt") as file:
            yield (lambda name: file.get_tensor(name).clone()) if copy else file.get_tensor

    return source


def _norm(get: Get, name: str, shape: _Shape, device: torch.device) -> _Norm:
    weight_d, bias_d = (get(f"{name}.{part}").to(device, torch.float32) for part in ("weight", "bias"))
    if weight_d.shape != (shape.width,) or bias_d.shape != (shape.width,):
        raise ModelError(f"{name}: {tuple(weight_d.shape)} weights, config.json asks for {shape.width}")
    return _Norm(weight_d, bias_d, shape.epsilon)


@dataclass(frozen=True)
class _Maker:
    """Lays out weights for one precision and device. transformers' Conv1D stores them as (in, out)."""

    precision: Precision
    device: torch.device

    def product(
        self,
        weight_io: torch.Tensor,
        bias_o: torch.Tensor,
        activation: str | None = None,
        low_out: bool = False,
        exact: bool = False,
    ) -> _Product:
        """`low_out`: the result may be of the precision's own type, because a product or attention comes next;
        `exact`: one of those that int8 leaves alone."""
        bias_o = bias_o.to(self.device, torch.float32)
        if self.precision == "float32" or (self.precision == "int8" and exact):
            return _float32(weight_io.to(self.device, torch.float32), bias_o, activation)
        if self.precision == "int8":
            if self.device.type != "cpu":
                raise ModelError("int8 runs on CPUs only")
            return _int8(weight_io.float(), bias_o, activation)
        if self.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return _onednn(weight_io, bias_o, activation, low_out, torch.bfloat16)
        return _bfloat16(weight_io.to(self.device), bias_o, activation, low_out)


def _float32(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> _Product:
    # As stored: laid out for oneDNN, the products ran no faster from 64 rows on, and needed a second copy.
    act = _ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = torch.addmm(bias_o, rows, weight_io)
        return act(wide) if act else wide

    return product


def _onednn(
    weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None, low_out: bool, low: torch.dtype
) -> _Product:
    """Weights in oneDNN's own blocks, and GELU inside the product: the operators of Inductor's freezing."""
    mkldnn = torch.ops.mkldnn
    packed = mkldnn._reorder_linear_weight(weight_io.T.to(low).contiguous(), None)
    bias_low = bias_o.to(low)
    fused = activation in ("gelu_new", "gelu_pytorch_tanh")
    what, how = ("gelu", "tanh") if fused else ("none", "")
    act = _ACTIVATIONS[activation] if activation and not fused else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = mkldnn._linear_pointwise(rows.to(low), packed, bias_low, what, [], how)
        if act:
            wide = act(wide.float())
        return wide if low_out else wide.float()

    return product


def _bfloat16(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None, low_out: bool) -> _Product:
    weight_oi, bias_low = weight_io.T.bfloat16().contiguous(), bias_o.bfloat16()
    act = _ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = linear(rows.bfloat16(), weight_oi, bias_low)
        if act:
            wide = act(wide.float())
        return wide if low_out else wide.float()

    return product


def _int8(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> _Product:
    """oneDNN's products of unsigned inputs and signed weights.

    A token's inputs are q = (x - low) / step, low and step being its own, and so
    x W = step (q W) + low (1 W) with a row of ones: W's column sums, rounded as W itself is.
    """
    levels = 127 if torch.cpu._is_vnni_supported() else 63
    weight_oi = weight_io.T
    steps_o = (weight_oi.abs().amax(dim=1) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    whole_oi = (weight_oi / steps_o[:, None]).round_().to(torch.int8).contiguous()
    sums_o = whole_oi.sum(dim=1) * steps_o
    onednn, zeros_o = torch.ops.onednn, torch.zeros(len(bias_o), dtype=torch.int64)
    packed = onednn.qlinear_prepack(whole_oi, None)
    act = _ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        low_n1, high_n1 = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
        step_n1 = ((high_n1 - low_n1) / 255).clamp_(min=1e-30)
        whole = ((rows - low_n1) / step_n1).round_().to(torch.uint8)
        wide: torch.Tensor = onednn.qlinear_pointwise(
            whole, 1.0, 0, packed, steps_o, zeros_o, None, 1.0, 0, torch.float32, "none", [], ""
        )
        wide.mul_(step_n1).addcmul_(low_n1, sums_o).add_(bias_o)
        return act(wide) if act else wide

    return product


def _gelu_tanh(wide: torch.Tensor) -> torch.Tensor:
    """The tanh approximation of GELU, x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), written as
    x sigmoid(2u), which is equal and, over rows that stay in the cache, twice as fast as PyTorch's tanh."""
    factor = 1.5957691216057308  # 2 sqrt(2 / pi)
    gate = wide.square().mul_(0.044715 * factor).add_(factor).mul_(wide).sigmoid_()
    return gate.mul_(wide)


_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": _gelu_tanh,  # GPT-2's own
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "swish": torch.nn.functional.silu,
    "tanh": torch.tanh,
}
