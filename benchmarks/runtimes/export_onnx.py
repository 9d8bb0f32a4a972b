"""Exports an artifact to ONNX, in float32 and with dynamically quantised int8 weights. Runs in `onnxruntime`.

    python -m benchmarks.runtimes.export_onnx ARTIFACT OUTPUT [reduce-range]

Batch 1, any length: input_ids, attention_mask and position_ids (1, T) int64 -> logits (1, C) of the last token.
"""

import sys
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import GPT2ForSequenceClassification

EXAMPLE_TOKENS = 24


class LastLogits(torch.nn.Module):
    """The exported model: the transformer and the head on its last position."""

    def __init__(self, model: GPT2ForSequenceClassification) -> None:
        super().__init__()
        self.transformer, self.score = model.transformer, model.score

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (1, C)."""
        hidden_btd = self.transformer(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = self.score(hidden_btd[:, -1])
        return logits


def export(artifact: Path, path: Path) -> None:
    """Write the model in float32."""
    model = GPT2ForSequenceClassification.from_pretrained(artifact, dtype=torch.float32, attn_implementation="eager")
    ids_bt = torch.arange(100, 100 + EXAMPLE_TOKENS)[None]
    names = ("input_ids", "attention_mask", "position_ids")
    tokens = torch.export.Dim("tokens", min=2, max=model.config.n_positions)
    torch.onnx.export(
        LastLogits(model).eval(),
        # three separate tensors: one that is passed twice becomes one input
        (ids_bt, torch.ones_like(ids_bt), torch.arange(EXAMPLE_TOKENS)[None]),
        path,
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes={name: {1: tokens} for name in names},
        dynamo=True,
        external_data=True,
    )


def main(artifact: str, output: str, *flags: str) -> None:
    """Write float32.onnx and int8.onnx; the flag `reduce-range` leaves int8 weights 7 bits, for x86 without VNNI."""
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    full = directory / "float32.onnx"
    with torch.inference_mode():
        export(Path(artifact), full)
    onnx.checker.check_model(str(full))
    quantize_dynamic(
        full,
        directory / "int8.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range="reduce-range" in flags,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
