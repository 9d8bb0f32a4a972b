"""The layers of a GPT-2, read from its weights and laid out for the packed forward.

The artifact's safetensors file is mapped into memory and released tensor by tensor, so that there is never a second
copy of all weights. Nothing of the mapping stays, because overwriting the file would change the answers, and truncating
it would end the process.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn.functional import layer_norm

from classifier.errors import ModelError
from classifier.products import ACTIVATIONS, MatrixProduct, ProductMaker

ReadTensor = Callable[[str], torch.Tensor]
"""Returns the tensor of this name."""

OpenWeights = Callable[[], AbstractContextManager[ReadTensor]]
"""Opens the weights. A tensor that was read and not copied keeps the file mapped after it is closed."""


@dataclass(frozen=True)
class Norm:
    """Layer norm over the last dimension."""

    weight_d: torch.Tensor
    bias_d: torch.Tensor
    epsilon: float

    def __call__(self, rows_nd: torch.Tensor) -> torch.Tensor:
        return layer_norm(rows_nd, self.weight_d.shape, self.weight_d, self.bias_d, self.epsilon)


@dataclass(frozen=True)
class Block:
    """The weights of one layer."""

    norm_1: Norm
    inputs: tuple[MatrixProduct, ...]
    """One product for query, key and value; in the last layer one for the query and one for key and value. The weights
    of the query contain the factor of the attention scores."""
    project: MatrixProduct
    norm_2: Norm
    widen: MatrixProduct
    """The first product of the MLP, including the activation."""
    narrow: MatrixProduct


@dataclass(frozen=True)
class Shape:
    """The part of a GPT-2 configuration that the forward depends on."""

    width: int
    inner: int
    heads: int
    layers: int
    epsilon: float
    activation: str
    scaled: bool
    scaled_by_layer: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Read config.json.

        Raises:
            ModelError: not a GPT-2, or one that the packed forward cannot run.
        """
        if config.get("model_type") != "gpt2" or "flatten_tokens" in config:
            kind = "a GPT-2 with the head 'flatten'" if "flatten_tokens" in config else f"{config.get('model_type')!r}"
            raise ModelError(
                f"config.json describes {kind}; the packed forward is for GPT-2 with the head 'last_token'"
            )
        width = config["n_embd"]
        if config["activation_function"] not in ACTIVATIONS:
            raise ModelError(
                f"config.json: activation_function {config['activation_function']!r} is not one of "
                f"{', '.join(sorted(ACTIVATIONS))}"
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
        """Return the number of parameters: layers, last norm, and further matrices with these rows and columns."""
        width, inner = self.width, self.inner
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        return self.layers * layer + 2 * width + sum(a * b for a, b in zip(outside[::2], outside[1::2], strict=True))


def read_block(shape: Shape, open_weights: OpenWeights, make: ProductMaker, index: int, last: bool) -> Block:
    """Read layer number `index`, counted from 0.

    Raises:
        ModelError: the weights do not fit the shape.
    """
    scale = float((shape.width // shape.heads) ** -0.5) if shape.scaled else 1.0
    if shape.scaled_by_layer:
        scale /= index + 1
    prefix, width = f"transformer.h.{index}.", shape.width
    columns = (slice(0, width), slice(width, None)) if last else (slice(None),)

    def product(name: str, inputs: int, outputs: int, part: slice = slice(None), **kind: Any) -> MatrixProduct:
        # Each product opens the file anew. If a weight is used as stored, its mapping stays open, and would also keep
        # in memory the parts of other weights that were read through it.
        with open_weights() as read:
            weight_io, bias_o = read(f"{prefix}{name}.weight"), read(f"{prefix}{name}.bias")
            if weight_io.shape != (inputs, outputs) or bias_o.shape != (outputs,):
                raise ModelError(
                    f"{prefix}{name}: weights of {tuple(weight_io.shape)} and bias of {tuple(bias_o.shape)}, "
                    f"config.json asks for {(inputs, outputs)} and {(outputs,)}"
                )
            if name == "attn.c_attn":
                factor_o = torch.ones(outputs)
                factor_o[:width] = scale
                weight_io, bias_o = weight_io.float() * factor_o, bias_o.float() * factor_o
            return make.product(weight_io[:, part], bias_o[part], exact=last or name == "attn.c_attn", **kind)

    with open_weights() as read:
        norm_1, norm_2 = (read_norm(read, f"{prefix}{name}", shape, make.device) for name in ("ln_1", "ln_2"))
    return Block(
        norm_1=norm_1,
        inputs=tuple(product("attn.c_attn", width, 3 * width, part) for part in columns),
        project=product("attn.c_proj", width, width),
        norm_2=norm_2,
        widen=product("mlp.c_fc", width, shape.inner, activation=shape.activation),
        narrow=product("mlp.c_proj", shape.inner, width),
    )


def read_norm(read: ReadTensor, name: str, shape: Shape, device: torch.device) -> Norm:
    """Read a layer norm.

    Raises:
        ModelError: the weights do not fit the shape.
    """
    weight_d, bias_d = (read(f"{name}.{part}").to(device, torch.float32) for part in ("weight", "bias"))
    if weight_d.shape != (shape.width,) or bias_d.shape != (shape.width,):
        raise ModelError(f"{name}: {tuple(weight_d.shape)} weights, config.json asks for {shape.width}")
    return Norm(weight_d, bias_d, shape.epsilon)


def safetensors_weights(path: Path, copy: bool) -> OpenWeights:
    """Return a function that opens a safetensors file.

    The file is mapped anew each time, so that no memory stays in use for a layer that was copied.

    Args:
        path: the file.
        copy: copy each tensor. Otherwise overwriting the file would change the answers of a running service, and
            truncating it would end the service by SIGBUS.
    """

    @contextmanager
    def open_weights() -> Iterator[ReadTensor]:
        with safe_open(path, framework="pt") as file:
            yield (lambda name: file.get_tensor(name).clone()) if copy else file.get_tensor

    return open_weights
