"""ONNX Runtime, one text at a time without padding. Runs in the environment `onnxruntime`."""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import onnxruntime

from benchmarks.runtimes.onnx_feed import feed
from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids


def build(ids: str, threads: int, onnx: str, sessions: int = 1, **_: object) -> Turn:
    """Return a turn that runs the ONNX file `onnx` on the CPU, in several sessions that share the threads."""
    texts = read_ids(ids)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads // sessions
    idle: SimpleQueue[onnxruntime.InferenceSession] = SimpleQueue()
    for _session in range(sessions):
        idle.put(onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"]))
    first = idle.get()
    wanted = {i.name for i in first.get_inputs()}
    idle.put(first)
    pool = ThreadPoolExecutor(sessions)

    def run(row: list[int]) -> list[float]:
        session = idle.get()
        try:
            logits: list[float] = session.run(["logits"], feed(row, wanted))[0][0].tolist()
        finally:
            idle.put(session)
        return logits

    def forward() -> Logits:
        return list(pool.map(run, texts))

    return forward_turn(texts, forward)
