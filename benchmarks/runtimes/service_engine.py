"""The service's engine without the service: `service.model.torch_engine`, called directly.

run all     all texts once, in batches of the service's own token budget
run 7       text 7 alone
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.runtimes.worker import Turn
from benchmarks.tools.statistics import token_batches
from service.inference.engine import TextWindows
from service.model.torch_engine import load_torch_engine
from service.settings import Settings


def build(artifact: str, texts: str, threads: int) -> Turn:
    """Return a turn that times `infer` alone: tokenising and decoding are part of what the service adds."""
    engine = load_torch_engine(Settings(model_dir=Path(artifact), threads=threads))
    contents = json.loads(Path(texts).read_text(encoding="utf-8"))
    encoded = [list(text.windows) for text in engine.encode(contents, None) if isinstance(text, TextWindows)]
    windows = [window for text in encoded for window in text]
    batches = token_batches([window.computed_tokens for window in windows], engine.info.max_batch_tokens)

    def turn(word: str) -> Mapping[str, float]:
        alone = word.isdigit()
        wanted = [encoded[int(word)]] if alone else [[windows[i] for i in batch] for batch in batches]
        started = time.perf_counter()
        for batch in wanted:
            engine.infer(batch)
        return {"seconds": time.perf_counter() - started, "texts": 1 if alone else len(encoded)}

    return turn
