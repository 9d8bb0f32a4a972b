"""Make the channel base_model, a GPT-2 of two layers with random weights. image_test.py runs it in the image."""

import csv
import json
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

ML = Path("/opt/ml")
with (ML / "input" / "data" / "train" / "articles.csv").open(encoding="utf-8", newline="") as file:
    texts = [row["text"] for row in csv.DictReader(file)]
target = ML / "input" / "data" / "base_model"
bpe = ByteLevelBPETokenizer()
bpe.train_from_iterator(texts, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
torch.manual_seed(7)
config = GPT2Config(vocab_size=400, n_positions=128, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
GPT2LMHeadModel(config).save_pretrained(target)
bpe.save(str(target / "tokenizer.json"))
described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
(target / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
