"""The service's own engine without the service: `service.model.torch_engine`, called directly.

run all     all texts once, in batches of the service's own token budget
run 7       text 7 alone
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.workers.protocol import Turn, parser, serve
from service.inference.engine import EncodedWindow, TextWindows
from service.model.torch_engine import load_torch_engine
from service.settings import Settings


def build(artifact: Path, texts: list[str], threads: int) -> Turn:
    """Only `infer` is timed: tokenising and decoding are the service's to add."""
    settings = Settings(model_dir=artifact, threads=threads)
    engine = load_torch_engine(settings)
    encoded = [result for result in engine.encode(texts, None) if isinstance(result, TextWindows)]
    items = [list(text.items) for text in encoded]
    batches: list[list[EncodedWindow]] = []
    for item in sorted((item for text in items for item in text), key=lambda item: -item.tokens):
        computed = sum(other.computed for other in batches[-1]) if batches else 0
        if not batches or computed + item.computed > engine.info.max_batch_tokens:
            batches.append([])
        batches[-1].append(item)

    def turn(word: str) -> Mapping[str, float]:
        wanted = [items[int(word)]] if word.isdigit() else batches
        started = time.perf_counter()
        for batch in wanted:
            engine.infer(batch)
        return {"seconds": time.perf_counter() - started, "texts": 1 if word.isdigit() else len(encoded)}

    return turn


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--texts", type=Path, required=True, help="a JSON file with a list of texts")
    parsed = arguments.parse_args()
    texts = json.loads(parsed.texts.read_text(encoding="utf-8"))
    serve(lambda: build(parsed.artifact, texts, parsed.threads))


if __name__ == "__main__":
    main()
