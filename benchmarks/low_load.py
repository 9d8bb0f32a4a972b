"""What the service adds to the model's own time for a single text, when nothing else is asked.

    python -m benchmarks.low_load

It measures models/default as it is served. Each text is sent over HTTP and given to the service's engine in another
process, which is idle otherwise; the two take turns at being first. A forward alone varies by more than the added time,
so there are two measures:

- "added, beside the engine": the caller's time minus the engine's time for the same text;
- "added, around the model": the caller's time minus the time of the model according to the answer (`timing.model_ms`).
"""

import asyncio
import json
import time
from argparse import Namespace
from typing import Any

from benchmarks.servers.start import ours, started
from benchmarks.service import WARM_UP, service_engine
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, parser, run, save, say
from benchmarks.tools.inputs import articles
from benchmarks.tools.load import Pool
from benchmarks.tools.machine import command, describe
from benchmarks.tools.markdown import Cell, table
from benchmarks.tools.statistics import percentile

MEASURES = {
    "http_ms": "caller",
    "engine_ms": "engine",
    "beside_ms": "added, beside the engine",
    "around_ms": "added, around the model",
}
QUANTILES = (25, 50, 75, 95)


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures: for each measure a list of milliseconds, one for each text and round."""
    texts = articles(options, options.articles, options.seed + 1)
    server = ours(DEFAULT_ARTIFACT)
    times: dict[str, list[float]] = {name: [] for name in MEASURES}
    with started(server, options.work) as running, service_engine(DEFAULT_ARTIFACT, texts, options) as engine:
        pool = Pool(running.port)

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
                        engine_ms = 1000 * engine.run(place)["seconds"]
                    http_ms, model_ms = await ask(text)
                    if not engine_first:
                        engine_ms = 1000 * engine.run(place)["seconds"]
                    row = http_ms, engine_ms, http_ms - engine_ms, http_ms - model_ms
                    for name, taken in zip(MEASURES, row, strict=True):
                        times[name].append(taken)
            pool.close()

        asyncio.run(ask_all())
    return {"machine": describe(), "command": command(), "texts": len(texts), "rounds": options.rounds, "times": times}


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows: list[list[Cell]] = [
        [title, *(f"{percentile(figures['times'][name], q):.2f}" for q in QUANTILES)]
        for name, title in MEASURES.items()
    ]
    head = f"`models/default`, {figures['texts']} articles, {figures['rounds']} rounds."
    return f"{head}\n\n{table(['ms', *(f'p{q}' for q in QUANTILES)], rows)}"


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--articles", type=int, default=60, help="sent one by one")
    options = arguments.parse_args()
    if options.quick:
        options.rounds, options.articles = 1, 10
    figures = measure(options)
    save(options, "low-load", figures)
    print(report(figures))


if __name__ == "__main__":
    run(main)
