"""Articles a second while fine-tuning GPT-2 small, beside a plain copy of the article's loop, at 128 tokens a text.

    python -m benchmarks.training_step --data bbc.csv --tokenizer DIR --rounds 5

Random weights in GPT-2 small's shape: the speed is the same. Two processes, so that each has a peak of memory of its
own, take turns: each round runs a few seconds of one, then of the other. Reported is the median of the rounds.
"""

import argparse
import multiprocessing as mp
import random
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from transformers import GPT2Config, GPT2Model

from classifier.labels import Labels
from classifier.model import GPT2Classifier, load_base_tokenizer
from training.config import TrainConfig
from training.data.read import read_examples
from training.fit.batches import Collator, Epoch, LengthGroupedOrder, TokenizedTexts
from training.fit.loop import use_bfloat16
from training.fit.losses import classification_loss
from training.fit.trainer import _set_dropout, learning_rates

TOKENS = 128
Step = Callable[[], int]
"""One optimiser step; returns the number of texts in it."""


def ours(ids: list[list[int]], labels: list[int], batch_size: int) -> Step:
    """This project's recipe for GPT-2: batches of texts of like length, fused AdamW, no dropout in attention."""
    torch.manual_seed(0)
    names = Labels(tuple(f"label{i}" for i in range(max(labels) + 1)))
    config = GPT2Config(pad_token_id=50256, id2label=names.id2label, label2id=dict(names.label2id))
    model = GPT2Classifier(config).train()
    settings = TrainConfig(max_seq_len=TOKENS)
    _set_dropout(model, settings.dropout)
    optimizer = torch.optim.AdamW(learning_rates(model, 5e-5, 1.0, 0.01), fused=True)
    texts, collate, bfloat16 = TokenizedTexts(ids, labels, TOKENS), Collator(50256), use_bfloat16("auto")

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        epoch = Epoch()
        while True:
            order = list(LengthGroupedOrder(texts, batch_size, 0, epoch))
            for i in range(0, len(order), batch_size):
                yield collate([texts[j] for j in order[i : i + batch_size]])
            epoch.number += 1

    stream = batches()

    def step() -> int:
        batch = next(stream)
        truth = batch.pop("labels")
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(**batch, every_token=True).logits
        classification_loss(logits.float(), batch["attention_mask"], truth, 0, 0.0).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return len(truth)

    return step


def article(ids: list[list[int]], labels: list[int], batch_size: int) -> Step:
    """The article's loop: two texts a step, each padded to 128 tokens, a layer over all positions, plain Adam."""
    torch.manual_seed(0)
    gpt2model = GPT2Model(GPT2Config()).train()
    fc1 = torch.nn.Linear(768 * TOKENS, max(labels) + 1)
    optimizer = torch.optim.Adam([*gpt2model.parameters(), *fc1.parameters()], lr=1e-5)
    criterion = torch.nn.CrossEntropyLoss()
    rng = random.Random(0)

    def step() -> int:
        rows = [rng.randrange(len(ids)) for _ in range(batch_size)]
        cut = [ids[i][:TOKENS] for i in rows]
        input_id = torch.tensor([[50256] * (TOKENS - len(row)) + row for row in cut])
        mask = torch.tensor([[0] * (TOKENS - len(row)) + [1] * len(row) for row in cut])
        gpt2model.zero_grad()
        fc1.zero_grad()
        gpt_out, _ = gpt2model(input_ids=input_id, attention_mask=mask, return_dict=False)
        output = fc1(gpt_out.view(len(rows), -1))
        loss = criterion(output, torch.tensor([labels[i] for i in rows]))
        loss.item()
        (output.argmax(dim=1) == torch.tensor([labels[i] for i in rows])).sum().item()
        loss.backward()
        optimizer.step()
        return len(rows)

    return step


def serve(build: Callable[[], Step], pipe: Connection) -> None:
    """In a process of its own: run for as many seconds as asked, answer texts a second; last, the peak of memory."""
    step = build()
    for _ in range(2):
        step()
    pipe.send(None)
    while (seconds := pipe.recv()) > 0:
        started, texts = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            texts += step()
        pipe.send(texts / (time.perf_counter() - started))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="GPT-2's, by name or directory")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one turn")
    parsed = parser.parse_args()
    examples = read_examples(parsed.data)
    names = sorted({e.label for e in examples})
    tokenizer = load_base_tokenizer(parsed.tokenizer)
    ids = [encoding.ids for encoding in tokenizer.encode_batch([e.text for e in examples])]
    labels = [names.index(e.label) for e in examples]
    context = mp.get_context("fork")
    pipes: dict[str, Connection] = {}
    builds = {
        "ours": lambda: ours(ids, labels, parsed.batch_size),
        "article": lambda: article(ids, labels, 2),
    }
    for name, build in builds.items():
        here, there = context.Pipe()
        context.Process(target=serve, args=(build, there), daemon=True).start()
        here.recv()
        pipes[name] = here
    rates: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(parsed.rounds):
        for name, pipe in pipes.items():
            pipe.send(parsed.seconds)
            rates[name].append(pipe.recv())
    mean_tokens = sum(min(len(row), TOKENS) for row in ids) / len(ids)
    for name, pipe in pipes.items():
        pipe.send(0)
        rate = median(rates[name])
        print(
            f"{name}: texts_per_s={rate:.3f}; tokens_per_s={rate * mean_tokens:.0f}; peak_mib={pipe.recv():.0f}; "
            f"rounds={[round(r, 3) for r in rates[name]]}"
        )
    print(f"ratio={median(o / a for o, a in zip(rates['ours'], rates['article'], strict=True)):.2f}")


if __name__ == "__main__":
    main()
