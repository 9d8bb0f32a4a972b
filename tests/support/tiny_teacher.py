"""A sentence encoder of two layers and width 24, in the layout of sentence-transformers."""

import json
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

from tests.support import texts

WIDTH = 24


def write_teacher(directory: Path, mode: str = "pooling_mode_mean_tokens", max_tokens: int = 64) -> None:
    """Write a teacher with random weights, a fixed seed, and the WordPiece vocabulary of the tests' own sentences."""
    wordpiece = BertWordPieceTokenizer()
    wordpiece.train_from_iterator(texts.corpus(), vocab_size=400, show_progress=False)
    torch.manual_seed(5)
    model = BertModel(
        BertConfig(
            vocab_size=wordpiece.get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=128, initializer_range=0.3,
        )
    )  # fmt: skip
    model.save_pretrained(directory)
    wordpiece.save(str(directory / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"} | special,
        "modules.json": [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling")],
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, mode: True, "pooling_mode_max_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": max_tokens},
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
