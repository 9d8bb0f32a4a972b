"""OpenVINO on the exported ONNX file, texts without padding. Runs in the environment `openvino`."""

from typing import Any

import openvino as ov

from benchmarks.runtimes.onnx_feed import feed
from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids


def build(ids: str, threads: int, onnx: str, hint: str, precision: str, **_: object) -> Turn:
    """Return a turn that runs texts one by one (hint LATENCY) or as many at once as OpenVINO asks for (THROUGHPUT)."""
    texts = read_ids(ids)
    core = ov.Core()
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    compiled = core.compile_model(core.read_model(onnx), "CPU", settings)
    wanted = {name for port in compiled.inputs for name in port.names}
    rows: Logits = [[]] * len(texts)
    queue = ov.AsyncInferQueue(compiled, 1 if hint == "LATENCY" else 0)

    def take(request: Any, place: int) -> None:
        rows[place] = request.get_output_tensor(0).data[0].tolist()

    queue.set_callback(take)

    def forward() -> Logits:
        for place, row in enumerate(texts):
            queue.start_async(feed(row, wanted), place)
        queue.wait_all()
        return list(rows)

    return forward_turn(texts, forward)
