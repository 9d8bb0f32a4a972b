"""ONNX Runtime, one text at a time without padding. Runs in the environment `onnxruntime`."""

import onnxruntime

from benchmarks.runtimes.onnx_feed import feed
from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids


def build(ids: str, threads: int, onnx: str, **_: object) -> Turn:
    """Return a turn that runs the ONNX file `onnx` on the CPU."""
    texts = read_ids(ids)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}

    def forward() -> Logits:
        return [session.run(["logits"], feed(row, wanted))[0][0].tolist() for row in texts]

    return forward_turn(texts, forward)
