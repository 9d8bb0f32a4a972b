"""Matrix products whose weights are laid out once for a precision, and the activations that may follow.

This module uses plain PyTorch and the operators of PyTorch's own oneDNN. It does not import transformers.

The precisions:

    float32    as the reference computes
    bfloat16   weights and inputs are rounded to bfloat16, sums are float32
    int8       weights have 63 steps on either side of zero per column (127 with VNNI), inputs 255 steps per token

The sums of int8 are exact: without VNNI, x86 adds pairs of products in 16 bits, where 255 x 63 fits twice and 255 x 127
does not. In int8, query, key and value are computed in bfloat16, or in float32 where the CPU has no bfloat16, because
softmax multiplies their errors (in int8, the errors of logits were 3.6 times as large). So is the last layer, because
its products have one row per text.

float32 weights keep their layout or take oneDNN's, whichever is faster: each shape is measured once.

Letters: N rows of tokens, I inputs and O outputs of a product.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch.nn.functional import linear

from classifier import Precision
from classifier.errors import ModelError


class MatrixProduct(Protocol):
    """A matrix product with its weights and bias, and perhaps an activation."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product (N, O) of inputs (N, I). Each may be float32 or of the product's own precision."""


@dataclass(frozen=True)
class ProductMaker:
    """Lays out weights for one precision and device. The weights are (I, O), as transformers' Conv1D stores them."""

    precision: Precision
    device: torch.device
    layouts: dict[tuple[int, int], str] = field(default_factory=dict)
    """The layout of float32 weights by their shape (I, O): "stored" or "onednn"."""

    def product(
        self,
        weight_io: torch.Tensor,
        bias_o: torch.Tensor,
        activation: str | None = None,
        exact: bool = False,
    ) -> MatrixProduct:
        """Lay out one product.

        Args:
            weight_io: (I, O).
            bias_o: (O,).
            activation: a key of `ACTIVATIONS`.
            exact: do not compute in int8.

        Raises:
            ModelError: int8 on another device than a CPU.
        """
        bias_o = bias_o.to(self.device, torch.float32)
        precision = self.precision
        if precision == "int8":
            if self.device.type != "cpu":
                raise ModelError("int8 runs on CPUs only")
            if not exact:
                return _int8(weight_io.float(), bias_o, activation)
            precision = "bfloat16" if has_bfloat16() else "float32"
        if precision == "float32":
            return self._float32(weight_io.to(self.device, torch.float32), bias_o, activation)
        if self.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return _onednn(weight_io, bias_o, activation, torch.bfloat16)
        return _bfloat16(weight_io.to(self.device), bias_o, activation)

    def _float32(self, weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
        if self.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return _stored(weight_io, bias_o, activation)
        shape = (weight_io.shape[0], weight_io.shape[1])
        if shape not in self.layouts:
            rows = torch.randn(MEASURED_ROWS, shape[0])
            seconds = {name: _seconds(make(weight_io, bias_o, None), rows) for name, make in LAYOUTS.items()}
            self.layouts[shape] = min(seconds, key=seconds.__getitem__)
        return LAYOUTS[self.layouts[shape]](weight_io, bias_o, activation)


def has_bfloat16() -> bool:
    """Return whether this CPU has instructions for products of bfloat16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@cache
def int8_levels() -> int:
    """Return the largest absolute value of int8 weights with which oneDNN's products are exact here: 127 or 63.

    Without VNNI, oneDNN adds two products of unsigned and signed bytes in 16 bits, which two of 255 x 127 saturate. A
    product tells it, because oneDNN may be held to fewer instructions than the CPU has.
    """
    onednn = torch.ops.onednn
    inputs, weights = torch.full((16, 64), 255, dtype=torch.uint8), torch.full((64, 64), 127, dtype=torch.int8)
    steps, zeros = torch.ones(64), torch.zeros(64, dtype=torch.int64)
    product: torch.Tensor = onednn.qlinear_pointwise(
        inputs, 1.0, 0, onednn.qlinear_prepack(weights, None), steps, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return 127 if bool((product == 64 * 255 * 127).all()) else 63


def _seconds(product: MatrixProduct, rows: torch.Tensor) -> float:
    """Return the least of three times, after a warm-up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        product(rows)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _stored(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = torch.addmm(bias_o, rows, weight_io)
        return act(wide) if act else wide

    return product


def _packed(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    """Lay float32 weights out in oneDNN's own blocks. Its GELU is slower than ours, so it stays outside."""
    mkldnn = torch.ops.mkldnn
    packed = mkldnn._reorder_linear_weight(weight_io.T.contiguous(), None)
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = mkldnn._linear_pointwise(rows, packed, bias_o, "none", [], "")
        return act(wide) if act else wide

    return product


LAYOUTS: Mapping[str, Callable[[torch.Tensor, torch.Tensor, str | None], MatrixProduct]] = {
    "stored": _stored,
    "onednn": _packed,
}

MEASURED_ROWS = 256
"""Number of rows of the product by which layouts are compared."""


def _onednn(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None, low: torch.dtype) -> MatrixProduct:
    """Lay the weights out in oneDNN's own blocks, with GELU inside the product, as Inductor's freezing does."""
    mkldnn = torch.ops.mkldnn
    packed = mkldnn._reorder_linear_weight(weight_io.T.to(low).contiguous(), None)
    bias_low = bias_o.to(low)
    fused = activation in ("gelu_new", "gelu_pytorch_tanh")
    what, how = ("gelu", "tanh") if fused else ("none", "")
    act = ACTIVATIONS[activation] if activation and not fused else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = mkldnn._linear_pointwise(rows.to(low), packed, bias_low, what, [], how)
        if act:
            wide = act(wide.float())
        return wide

    return product


def _bfloat16(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    weight_oi, bias_low = weight_io.T.bfloat16().contiguous(), bias_o.bfloat16()
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = linear(rows.bfloat16(), weight_oi, bias_low)
        if act:
            wide = act(wide.float())
        return wide

    return product


def _int8(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    """Use oneDNN's product of unsigned inputs and signed weights.

    The inputs of a token are quantised as q = (x - low) / step, with its own low and step, so that
    x W = step (q W) + low (1 W), where 1 W are the column sums of W, rounded as W is.
    """
    weight_oi = weight_io.T
    steps_o = (weight_oi.abs().amax(dim=1) / int8_levels()).clamp(min=torch.finfo(torch.float32).tiny)
    whole_oi = (weight_oi / steps_o[:, None]).round_().to(torch.int8).contiguous()
    sums_o = whole_oi.sum(dim=1) * steps_o
    onednn, zeros_o = torch.ops.onednn, torch.zeros(len(bias_o), dtype=torch.int64)
    packed = onednn.qlinear_prepack(whole_oi, None)
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.float()
        low_n1, high_n1 = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
        step_n1 = ((high_n1 - low_n1) / 255).clamp_(min=1e-30)
        # PyTorch converts to int8 several times as fast as to uint8
        signed = (rows - low_n1).div_(step_n1).sub_(128).round_().to(torch.int8)
        whole = signed.view(torch.uint8).bitwise_xor_(128)
        wide: torch.Tensor = onednn.qlinear_pointwise(
            whole, 1.0, 0, packed, steps_o, zeros_o, None, 1.0, 0, torch.float32, "none", [], ""
        )
        wide.mul_(step_n1).addcmul_(low_n1, sums_o).add_(bias_o)
        return act(wide) if act else wide

    return product


def _gelu_tanh(wide: torch.Tensor) -> torch.Tensor:
    """Return the tanh approximation of GELU, x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3).

    It is computed as x sigmoid(2u), which is equal and, over rows that stay in the cache, twice as fast as PyTorch's
    tanh.
    """
    factor = 1.5957691216057308  # 2 sqrt(2 / pi)
    gate = wide.square().mul_(0.044715 * factor).add_(factor).mul_(wide).sigmoid_()
    return gate.mul_(wide)


ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": _gelu_tanh,  # GPT-2's own
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "swish": torch.nn.functional.silu,
    "tanh": torch.tanh,
}
