"""A sentence encoder as teacher: one vector of norm 1 for each text."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer

from classifier.errors import ModelError, first_line

BATCH_TOKENS = 8192
"""Padded tokens of one forward: enough for the matrix kernels, few enough for caches and memory."""
MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
"""Parts of a sentence-transformers model that this module computes."""


class SentenceEncoder:
    """A sentence encoder in a local directory, as sentence-transformers writes it or as a plain transformers model.

    A text's vector is the mean of the last hidden states, or the first of them if `1_Pooling/config.json` says so.

    Args:
        directory: `config.json`, weights in safetensors and a tokenizer.
        dtype: precision of the forward; vectors are averaged in float32.
        max_tokens: most tokens that are read of a text, special tokens among them; 0: as the directory says.

    Raises:
        ModelError: it cannot be loaded, or needs a part that this class does not compute.
    """

    def __init__(self, directory: str, dtype: torch.dtype = torch.float32, max_tokens: int = 0) -> None:
        path = Path(directory)
        try:
            kinds = {part["type"].rpartition(".")[2] for part in _read(path / "modules.json", [])}
            pooling: dict[str, Any] = _read(path / "1_Pooling" / "config.json", {})
            stated = _read(path / "sentence_bert_config.json", {}).get("max_seq_length")
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model = AutoModel.from_pretrained(path, dtype=dtype, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
            raise ModelError(f"teacher {directory!r} cannot be loaded: {first_line(exc)}") from exc
        modes = {mode for mode, used in pooling.items() if mode.startswith("pooling_mode_") and used}
        if unknown := sorted(kinds - MODULES) or sorted(modes - {"pooling_mode_mean_tokens", "pooling_mode_cls_token"}):
            raise ModelError(f"teacher {directory!r} needs {', '.join(unknown)}, which is not supported")
        self._first = modes == {"pooling_mode_cls_token"}
        positions: int = model.config.max_position_embeddings
        self._max_tokens = min(max_tokens or stated or positions, positions)
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.width: int = model.config.hidden_size
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.suffix in (".json", ".safetensors", ".txt")):
            digest.update(file.read_bytes())
        self.sha256 = digest.hexdigest()
        """SHA-256 of its files, which tells apart teachers."""

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors (B, D) of B texts; what is beyond the longest text that the encoder reads is ignored."""
        ids = self._tokenizer(
            list(texts), truncation=True, max_length=self._max_tokens, padding=False, return_attention_mask=False
        )["input_ids"]
        vectors_bd = np.empty((len(texts), self.width), dtype=np.float32)
        for batch in _batches([len(row) for row in ids]):
            lengths_b1 = torch.tensor([[len(ids[i])] for i in batch], device=self.model.device)
            rows = [torch.tensor(ids[i]) for i in batch]
            padded_bt = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)
            mask_bt = torch.arange(padded_bt.shape[1], device=self.model.device) < lengths_b1
            hidden_btd = self.model(padded_bt, attention_mask=mask_bt.long()).last_hidden_state
            if self._first:
                pooled_bd = hidden_btd[:, 0].float()
            else:
                pooled_bd = (hidden_btd.float() * mask_bt[..., None]).sum(1) / lengths_b1
            vectors_bd[batch] = torch.nn.functional.normalize(pooled_bd, dim=-1).cpu().numpy()
        return vectors_bd


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of indices of texts, shortest first, of at most `BATCH_TOKENS` tokens with padding."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[i] > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches if lengths else []
