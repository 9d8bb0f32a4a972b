"""What the service adds to the model's own time where nothing else is asked: one text after the other.

    python -m benchmarks.low_load

On models/default as it is served. Each text is asked over HTTP and given to the bare engine in another process, which
nobody else uses meanwhile, one first and the other first in turn. Two measures of what is added, since a forward alone
varies by more than what is looked for:

- "beside the bare engine": the caller's time less the bare engine's for the same text;
- "around the model": the caller's time less what the answer says the model took (`timing.model_ms`).
"""

import asyncio
import json
import time
from argparse import Namespace
from typing import Any

from benchmarks.artifacts import articles
from benchmarks.figures import percentile
from benchmarks.load import Pool
from benchmarks.machine import command, describe
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT
from benchmarks.servers import ours, up
from benchmarks.service import HOST, WARM_UP, bare_engine
from benchmarks.tables import table

MEASURES = {
    "http_ms": "caller",
    "engine_ms": "bare engine",
    "beside_ms": "added, beside the bare engine",
    "around_ms": "added, around the model",
}

QUANTILES = (25, 50, 75, 95)


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures: for each measure a list in ms, one of each text and round."""
    artifact = ROOT / "models" / "default"
    texts = articles(options.data, options.articles, options.seed + 1)
    server = ours(artifact)
    times: dict[str, list[float]] = {name: [] for name in MEASURES}
    with up(server, options.work) as running, bare_engine(artifact, texts, options) as bare:

        async def ask(text: str) -> tuple[float, float]:
            sent = time.perf_counter()
            response = await pool.ask(server.request(text))
            return 1000 * (time.perf_counter() - sent), json.loads(response.body)["timing"]["model_ms"]

        async def ask_all() -> None:
            for text in texts[:WARM_UP]:
                await ask(text)
            for turn in range(options.rounds):
                say(f"round {turn + 1} of {options.rounds}")
                for place, text in enumerate(texts):
                    engine_first = (turn + place) % 2
                    if engine_first:
                        engine_ms = 1000 * bare.run(place)["seconds"]
                    http_ms, model_ms = await ask(text)
                    if not engine_first:
                        engine_ms = 1000 * bare.run(place)["seconds"]
                    row = http_ms, engine_ms, http_ms - engine_ms, http_ms - model_ms
                    for name, taken in zip(MEASURES, row, strict=True):
                        times[name].append(taken)
            await pool.close()

        pool = Pool(HOST, running.port)
        asyncio.run(ask_all())
    return {"machine": describe(), "command": command(), "texts": len(texts), "rounds": options.rounds, "times": times}


def report(figures: dict[str, Any]) -> str:
    """Markdown."""
    rows: list[list[str | float | None]] = [
        [title, *(f"{percentile(figures['times'][name], q):.2f}" for q in QUANTILES)]
        for name, title in MEASURES.items()
    ]
    return "\n".join(
        [
            f"`models/default`, {figures['texts']} articles, {figures['rounds']} rounds.",
            "",
            table(["ms", *(f"p{q}" for q in QUANTILES)], rows),
        ]
    )


def main() -> None:
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--articles", type=int, default=60, help="asked one by one")
    options = arguments.parse_args()
    if options.quick:
        options.rounds, options.articles = 1, 10
    figures = measure(options)
    save(options, "low-load", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
