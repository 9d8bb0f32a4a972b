"""OpenVINO from the ONNX file, texts without padding. Runs in the environment `openvino`.

With the hint LATENCY one text after the other on all threads, with THROUGHPUT as many at once as OpenVINO asks for.
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from benchmarks.workers.protocol import Logits, Turn, forward_turn, parser, read_ids, serve


def build(model: Path, ids: list[list[int]], threads: int, hint: str, precision: str) -> Turn:
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    wanted = {name for port in compiled.inputs for name in port.names}

    def feed(row: list[int]) -> dict[str, Any]:
        ids_bt = np.array([row], dtype=np.int64)
        positions_bt = np.arange(len(row), dtype=np.int64)[None]
        inputs = {"input_ids": ids_bt, "attention_mask": np.ones_like(ids_bt), "position_ids": positions_bt}
        return {name: value for name, value in inputs.items() if name in wanted}

    rows: Logits = [[]] * len(ids)
    queue = ov.AsyncInferQueue(compiled, 1 if hint == "LATENCY" else 0)

    def take(request: Any, place: int) -> None:
        rows[place] = request.get_output_tensor(0).data[0].tolist()

    queue.set_callback(take)

    def forward() -> Logits:
        for place, row in enumerate(ids):
            queue.start_async(feed(row), place)
        queue.wait_all()
        return list(rows)

    return forward_turn(ids, forward)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, required=True, help="an ONNX file")
    arguments.add_argument("--hint", choices=("LATENCY", "THROUGHPUT"), default="LATENCY")
    arguments.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parsed = arguments.parse_args()
    serve(lambda: build(parsed.model, read_ids(parsed.ids), parsed.threads, parsed.hint, parsed.precision))


if __name__ == "__main__":
    main()
