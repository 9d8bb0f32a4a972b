"""The program of a runtime's process: reads lines, writes lines of JSON. Standard library only, for any environment.

    python -m benchmarks.runtimes.worker MODULE SETTINGS      SETTINGS: the arguments of MODULE.build as JSON

    (start)     -> {"load_s": ..., "seconds": ..., "tokens": ..., "logits": [...]}
    run WORD    -> {"seconds": ..., "tokens": ..., "logits": [...], "peak_rss_mib": ...}

`build` loads a model and returns a turn: a function of WORD that does the measured work and returns what it measured.
The first turn, a warm-up, runs before the first line is written. The process ends when its input does. What a library
prints goes to standard error.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Logits = list[list[float]]
Turn = Callable[[str], Mapping[str, Any]]


def read_ids(path: str) -> list[list[int]]:
    """Return the token ids of all texts from a JSON file."""
    ids: list[list[int]] = json.loads(Path(path).read_text(encoding="utf-8"))
    return ids


def forward_turn(ids: Sequence[Sequence[int]], forward: Callable[[], Logits]) -> Turn:
    """Return a turn that times one forward over all texts; `forward` returns their logits in order."""
    tokens = sum(map(len, ids))

    def turn(_word: str) -> dict[str, Any]:
        started = time.perf_counter()
        logits = forward()
        return {"seconds": time.perf_counter() - started, "tokens": tokens, "logits": logits}

    return turn


def main(module: str, settings: str) -> None:
    """Build the runtime, warm it up, then answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(fields: Mapping[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    started = time.perf_counter()
    turn: Turn = importlib.import_module(f"benchmarks.runtimes.{module}").build(**json.loads(settings))
    loaded = time.perf_counter() - started
    answer({"load_s": loaded, **turn("warm-up")})
    for line in sys.stdin:
        answer({**turn(line.strip().removeprefix("run ")), "peak_rss_mib": peak_rss_mib()})


def peak_rss_mib() -> float:
    """Return VmHWM. getrusage is not used, because after exec it still reports the peak of a larger parent process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
