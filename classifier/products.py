"""Matrix products whose weights are laid out once for a precision, and the activations that may follow.

This module uses plain PyTorch and the operators of PyTorch's own oneDNN. It does not import transformers.

The precisions:

    float32    as the reference computes
    bfloat16   weights and inputs are rounded to bfloat16, sums are float32
    int8       weights have 63 steps on either side of zero per column (127 with VNNI), inputs 255 steps per token

The sums of int8 are exact: without VNNI, x86 adds pairs of products in 16 bits, where 255 x 63 fits twice and 255 x 127
does not. In int8, query, key and value stay float32, because softmax multiplies their errors (otherwise the errors of
logits were 3.6 times as large). The last layer stays float32, too, because its products have one row per text.

Letters: N rows of tokens, I inputs and O outputs of a product.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import linear

from classifier import Precision
from classifier.errors import ModelError


class MatrixProduct(Protocol):
    """A matrix product with its weights and bias, and perhaps an activation."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product (N, O) of inputs (N, I), both float32."""


@dataclass(frozen=True)
class ProductMaker:
    """Lays out weights for one precision and device. The weights are (I, O), as transformers' Conv1D stores them."""

    precision: Precision
    device: torch.device

    def product(
        self,
        weight_io: torch.Tensor,
        bias_o: torch.Tensor,
        activation: str | None = None,
        low_out: bool = False,
        exact: bool = False,
    ) -> MatrixProduct:
        """Lay out one product.

        Args:
            weight_io: (I, O).
            bias_o: (O,).
            activation: a key of `ACTIVATIONS`.
            low_out: the result may have the precision's own dtype, because a product or attention follows.
            exact: compute in float32 even if the precision is int8.

        Raises:
            ModelError: int8 on another device than a CPU.
        """
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


def _float32(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    # The weights keep their layout, because oneDNN's needs a copy and made products of 64 rows or more no faster.
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = torch.addmm(bias_o, rows, weight_io)
        return act(wide) if act else wide

    return product


def _onednn(
    weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None, low_out: bool, low: torch.dtype
) -> MatrixProduct:
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
        return wide if low_out else wide.float()

    return product


def _bfloat16(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None, low_out: bool) -> MatrixProduct:
    weight_oi, bias_low = weight_io.T.bfloat16().contiguous(), bias_o.bfloat16()
    act = ACTIVATIONS[activation] if activation else None

    def product(rows: torch.Tensor) -> torch.Tensor:
        wide = linear(rows.bfloat16(), weight_oi, bias_low)
        if act:
            wide = act(wide.float())
        return wide if low_out else wide.float()

    return product


def _int8(weight_io: torch.Tensor, bias_o: torch.Tensor, activation: str | None) -> MatrixProduct:
    """Use oneDNN's product of unsigned inputs and signed weights.

    The inputs of a token are quantised as q = (x - low) / step, with its own low and step, so that
    x W = step (q W) + low (1 W), where 1 W are the column sums of W, rounded as W is.
    """
    levels = 127 if torch.cpu._is_vnni_supported() else 63
    weight_oi = weight_io.T
    steps_o = (weight_oi.abs().amax(dim=1) / levels).clamp(min=torch.finfo(torch.float32).tiny)
    whole_oi = (weight_oi / steps_o[:, None]).round_().to(torch.int8).contiguous()
    sums_o = whole_oi.sum(dim=1) * steps_o
    onednn, zeros_o = torch.ops.onednn, torch.zeros(len(bias_o), dtype=torch.int64)
    packed = onednn.qlinear_prepack(whole_oi, None)
    act = ACTIVATIONS[activation] if activation else None

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
