"""The inputs of an exported ONNX model for one text."""

from collections.abc import Collection
from typing import Any

import numpy as np


def feed(ids: list[int], wanted: Collection[str]) -> dict[str, Any]:
    """Return those of input_ids, attention_mask and position_ids, (1, T) int64, that the exported model reads."""
    ids_bt = np.array([ids], dtype=np.int64)
    inputs = {
        "input_ids": ids_bt,
        "attention_mask": np.ones_like(ids_bt),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }
    return {name: value for name, value in inputs.items() if name in wanted}
