"""How a worker talks: a line comes in, a line of JSON goes out. Standard library only, for any environment.

    (start)     -> {"ready": true, "load_s": ..., "seconds": ..., "tokens": ..., "logits": [...]}
    run WORD    -> {"seconds": ..., "tokens": ..., "logits": [...], "peak_rss_mib": ...}

WORD is a number or what a worker understands. The first turn, a warm-up, runs before `ready`, with the word warm-up.
A worker ends when its input does. What a library prints goes to standard error.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Logits = list[list[float]]
Turn = Callable[[str], Mapping[str, Any]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the flags that every worker has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--artifact", type=Path, required=True)
    made.add_argument("--ids", type=Path, help="a JSON file with a list of lists of token ids")
    made.add_argument("--threads", type=int, required=True)
    return made


def read_ids(path: Path) -> list[list[int]]:
    ids: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return ids


def forward_turn(ids: Sequence[Sequence[int]], forward: Callable[[], Logits]) -> Turn:
    """A turn that times one forward over all texts; `forward` answers in their order."""
    tokens = sum(map(len, ids))

    def turn(_word: str) -> dict[str, Any]:
        started = time.perf_counter()
        logits = forward()
        return {"seconds": time.perf_counter() - started, "tokens": tokens, "logits": logits}

    return turn


def serve(build: Callable[[], Turn]) -> None:
    """Build, warm up, then answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(fields: Mapping[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    started = time.perf_counter()
    turn = build()
    loaded = time.perf_counter() - started
    answer({"ready": True, "load_s": loaded, **turn("warm-up")})
    for line in sys.stdin:
        verb, _, word = line.strip().partition(" ")
        if verb == "run":
            answer({**turn(word), "peak_rss_mib": peak_rss_mib()})


def peak_rss_mib() -> float:
    """VmHWM. Not getrusage: on Linux that survives exec, so a small child of a large parent would report the parent."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")
