"""transformers' own GPT2ForSequenceClassification, as it comes or compiled."""

import shutil
import sys
from pathlib import Path

import torch
from transformers import GPT2ForSequenceClassification

from benchmarks.workers.protocol import Logits, Turn, forward_turn, parser, read_ids, serve


def build(artifact: Path, ids: list[list[int]], attention: str, dtype: torch.dtype, batch: int, compiled: bool) -> Turn:
    """Batches of `batch` texts of like length, padded on the right, where transformers' positions and pooling are
    right; a batch of 1 has no padding."""
    model = GPT2ForSequenceClassification.from_pretrained(artifact, dtype=dtype, attn_implementation=attention).eval()
    model.config.use_cache = False
    pad_id = model.config.pad_token_id
    call = torch.compile(model, dynamic=True) if compiled else model
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]

    def forward() -> Logits:
        rows: Logits = [[]] * len(ids)
        with torch.inference_mode():
            for members in batches:
                width = max(len(ids[i]) for i in members)
                ids_bt = torch.tensor([ids[i] + [pad_id] * (width - len(ids[i])) for i in members])
                mask_bt = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in members])
                logits = call(input_ids=ids_bt, attention_mask=mask_bt, use_cache=False).logits
                for i, row in zip(members, logits.float().tolist(), strict=True):
                    rows[i] = row
        return rows

    return forward_turn(ids, forward)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--attention", choices=("eager", "sdpa"), default="sdpa")
    arguments.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments.add_argument("--batch", type=int, default=1, help="texts")
    arguments.add_argument("--compile", action="store_true", help="by torch.compile, lengths dynamic")
    parsed = arguments.parse_args()
    if parsed.compile and not (shutil.which("g++") or shutil.which("clang++")):
        sys.exit("torch.compile needs a C++ compiler; neither g++ nor clang++ is on the PATH")
    torch.set_num_threads(parsed.threads)
    dtype = getattr(torch, parsed.dtype)
    ids = read_ids(parsed.ids)
    serve(lambda: build(parsed.artifact, ids, parsed.attention, dtype, parsed.batch, parsed.compile))


if __name__ == "__main__":
    main()
