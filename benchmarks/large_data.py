"""Time and memory of the stages of `inspect` and `train` on many generated texts.

    python -m benchmarks.large_data --texts 1000000 --words 60 --labels 20 --output work/large

The texts are drawn from 50,000 words by Zipf's law; each label has 50 words of its own, and one text in a hundred is a
near-copy of the text before. `train` makes a tenth of an epoch on a tiny base with random weights, which is made on the
spot. Memory is the largest resident size of the process and its children within a stage, sampled. Linux.
"""

import argparse
import csv
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.processes import end_on_signals, last_line, running

VOCABULARY, WORDS_PER_LABEL = 50_000, 50
LABEL_SHARE = 0.05
"""Share of the words of a text that are those of its label."""
COPIES = 0.01
"""Share of the texts that are near-copies."""
CHUNK_TEXTS = 10_000
SAMPLED_EVERY_S = 0.05
TOKENS = 8000
STAGE = re.compile(r"^stage=([\w-]+); seconds=([\d.]+);")


def main() -> int:
    """Generate the texts, run both commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=60, help="words of a text")
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument(
        "--output", type=Path, required=True, help="directory of data, base, artifact, reports and logs"
    )
    options = parser.parse_args()
    end_on_signals()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    data = output / "texts.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "text"])
        writer.writerows(generated(options.texts, options.words, options.labels))
    write_base(output / "base", data)
    print("| command | stage | seconds | peak MiB |\n| --- | --- | ---: | ---: |")
    report, artifact = output / "report", output / "artifact"
    train: list[str | Path] = ["--base-model", output / "base", "--output", artifact, "--overwrite", "--epochs", "0.1"]
    train += ["--max-seq-len", "128", "--batch-size", "256", "--precision", "float32"]
    commands: dict[str, list[str | Path]] = {"inspect": ["--output", report], "train": train}
    done = [stages(name, [name, "--data", data, *more], output / f"{name}.log") for name, more in commands.items()]
    return 0 if all(done) else 1


def generated(texts: int, words: int, labels: int) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; the same for the same numbers."""
    rng = np.random.default_rng(0)
    vocabulary = np.array(
        ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 10))) for _ in range(VOCABULARY)]
    )
    zipf = 1 / np.arange(1, VOCABULARY + 1)
    zipf /= zipf.sum()
    before = ""
    for start in range(0, texts, CHUNK_TEXTS):
        size = (min(CHUNK_TEXTS, texts - start), words)
        label_ids = rng.integers(labels, size=size[0])
        drawn = rng.choice(VOCABULARY, size=size, p=zipf)
        own = 1000 + label_ids[:, None] * WORDS_PER_LABEL + rng.integers(WORDS_PER_LABEL, size=size)
        drawn = np.where(rng.random(size) < LABEL_SHARE, own, drawn)
        copied = rng.random(size[0]) < COPIES
        for label, row, copy in zip(label_ids, vocabulary[drawn], copied, strict=True):
            text = f"{before} {row[0]}" if copy and before else " ".join(row)
            before = text
            yield f"label {label}", text


def write_base(directory: Path, data: Path) -> None:
    """Write a GPT-2 of two layers and width 32 with random weights, and a tokenizer of the first texts."""
    with data.open(encoding="utf-8") as file:
        sample = [line for _, line in zip(range(CHUNK_TEXTS), file, strict=False)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(sample, vocab_size=TOKENS, special_tokens=["<|endoftext|>"], show_progress=False)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=TOKENS, n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(shape).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")


def stages(name: str, arguments: Sequence[str | Path], log: Path) -> bool:
    """Run one command, print a row for each of its stages and one for the whole, and return whether it succeeded."""
    started = time.monotonic()
    with running([sys.executable, "-m", "training", *arguments], log=log, pipes=True) as process:
        assert process.stdout is not None
        memory = Memory(process.pid)
        memory.start()
        for line in process.stdout:
            if stage := STAGE.match(line.decode()):
                print(f"| {name} | {stage[1]} | {float(stage[2]):.1f} | {memory.peak_since():,.0f} |", flush=True)
        code = process.wait()
        memory.join()
        print(f"| {name} | all | {time.monotonic() - started:.1f} | {memory.highest:,.0f} |", flush=True)
    if code:
        sys.stderr.write(f"{name} ended with exit code {code}: {last_line(log)}\n")
    return code == 0


class Memory(threading.Thread):
    """Samples the resident size of a process and its children until it ends, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self._peak = 0.0
        self.highest = 0.0

    def run(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            try:
                family = [self._process, *self._process.children(recursive=True)]
                resident = sum(each.memory_info().rss for each in family) / 2**20
            except psutil.NoSuchProcess:
                continue
            self._peak, self.highest = max(self._peak, resident), max(self.highest, resident)
            time.sleep(SAMPLED_EVERY_S)

    def peak_since(self) -> float:
        """Return the largest size since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak


if __name__ == "__main__":
    sys.exit(main())
