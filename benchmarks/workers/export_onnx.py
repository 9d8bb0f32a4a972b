"""An artifact as ONNX, in float32 and with dynamically quantised int8 weights. Runs in the environment `onnxruntime`.

Batch 1, any length: input_ids, attention_mask and position_ids (1, T) int64 -> logits (1, C) of the last token.
"""

import argparse
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import GPT2ForSequenceClassification

EXAMPLE_TOKENS = 24


class LastLogits(torch.nn.Module):
    """What is exported: the transformer and the head on its last position."""

    def __init__(self, model: GPT2ForSequenceClassification) -> None:
        super().__init__()
        self.transformer, self.score = model.transformer, model.score

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
    ) -> torch.Tensor:
        hidden_btd = self.transformer(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = self.score(hidden_btd[:, -1])
        return logits


def export(artifact: Path, path: Path) -> None:
    """Write float32 ONNX."""
    model = GPT2ForSequenceClassification.from_pretrained(artifact, dtype=torch.float32, attn_implementation="eager")
    ids_bt = torch.arange(100, 100 + EXAMPLE_TOKENS)[None]
    names = ("input_ids", "attention_mask", "position_ids")
    tokens = torch.export.Dim("tokens", min=2, max=model.config.n_positions)
    torch.onnx.export(
        LastLogits(model).eval(),
        # three tensors of their own: one that is passed twice becomes one input
        (ids_bt, torch.ones_like(ids_bt), torch.arange(EXAMPLE_TOKENS)[None]),
        path,
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes={name: {1: tokens} for name in names},
        dynamo=True,
        external_data=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a directory; float32.onnx and int8.onnx go there")
    parser.add_argument("--reduce-range", action="store_true", help="7 bits a weight: for x86 without VNNI")
    parsed = parser.parse_args()
    parsed.output.mkdir(parents=True, exist_ok=True)
    full, small = parsed.output / "float32.onnx", parsed.output / "int8.onnx"
    with torch.inference_mode():
        export(parsed.artifact, full)
    onnx.checker.check_model(str(full))
    quantize_dynamic(
        full,
        small,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=parsed.reduce_range,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main()
