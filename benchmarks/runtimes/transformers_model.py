"""transformers' own GPT2ForSequenceClassification, as it is or compiled by torch.compile."""

import shutil
import sys

import torch
from transformers import GPT2ForSequenceClassification

from benchmarks.runtimes.worker import Logits, Turn, forward_turn, read_ids


def build(
    artifact: str,
    ids: str,
    threads: int,
    dtype: str = "float32",
    batch: int = 1,
    compiled: bool = False,
) -> Turn:
    """Return a turn over batches of `batch` texts of similar length, padded on the right.

    On that side transformers' positions and pooling are correct; a batch of 1 has no padding.
    """
    if compiled and not (shutil.which("g++") or shutil.which("clang++")):
        sys.exit("torch.compile needs a C++ compiler; neither g++ nor clang++ is on the PATH")
    torch.set_num_threads(threads)
    texts = read_ids(ids)
    model = GPT2ForSequenceClassification.from_pretrained(artifact, dtype=getattr(torch, dtype)).eval()
    model.config.use_cache = False
    pad_id = model.config.pad_token_id
    call = torch.compile(model, dynamic=True) if compiled else model
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]

    def forward() -> Logits:
        rows: Logits = [[]] * len(texts)
        with torch.inference_mode():
            for members in batches:
                width = max(len(texts[i]) for i in members)
                ids_bt = torch.tensor([texts[i] + [pad_id] * (width - len(texts[i])) for i in members])
                mask_bt = torch.tensor([[1] * len(texts[i]) + [0] * (width - len(texts[i])) for i in members])
                logits = call(input_ids=ids_bt, attention_mask=mask_bt, use_cache=False).logits
                for i, row in zip(members, logits.float().tolist(), strict=True):
                    rows[i] = row
        return rows

    return forward_turn(texts, forward)
