"""ONNX Runtime, one text at a time without padding. Runs in the environment `onnxruntime`."""

from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.workers.protocol import Logits, Turn, forward_turn, parser, read_ids, serve


def build(model: Path, ids: list[list[int]], threads: int) -> Turn:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}  # an export may find that it needs no mask

    def one(row: list[int]) -> list[float]:
        ids_bt = np.array([row], dtype=np.int64)
        positions_bt = np.arange(len(row), dtype=np.int64)[None]
        feed = {"input_ids": ids_bt, "attention_mask": np.ones_like(ids_bt), "position_ids": positions_bt}
        [logits_bc] = session.run(["logits"], {name: value for name, value in feed.items() if name in wanted})
        answer: list[float] = logits_bc[0].tolist()
        return answer

    def forward() -> Logits:
        return [one(row) for row in ids]

    return forward_turn(ids, forward)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, required=True, help="an ONNX file")
    parsed = arguments.parse_args()
    serve(lambda: build(parsed.model, read_ids(parsed.ids), parsed.threads))


if __name__ == "__main__":
    main()
