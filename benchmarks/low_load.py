"""The time that the service adds to the model's own time for a single text, without other requests.

    python -m benchmarks.low_load

It measures models/default as it is served: the caller's time for each text, the model's time according to the answer
(`timing.model_ms`), and their difference.
"""

import asyncio
import json
import time
from argparse import Namespace
from typing import Any

from benchmarks.servers.start import ours, started
from benchmarks.tools.command_line import DEFAULT_ARTIFACT, parser, run, run_part, say
from benchmarks.tools.inputs import articles
from benchmarks.tools.load import Pool
from benchmarks.tools.markdown import Cell, table
from benchmarks.tools.statistics import percentile

MEASURES = ("caller", "model", "added")
QUANTILES = (25, 50, 75, 95)


def measure(options: Namespace) -> dict[str, Any]:
    """Return raw figures: for each measure a list of milliseconds, one for each text and round."""
    texts = articles(options, options.articles, options.seed + 1)
    server = ours(DEFAULT_ARTIFACT)
    times: dict[str, list[float]] = {name: [] for name in MEASURES}

    async def ask_all(port: int) -> None:
        pool = Pool(port)
        for turn in range(options.rounds + 1):  # the first one warms up
            say(f"round {turn} of {options.rounds}" if turn else "warming up")
            for text in texts:
                sent = time.perf_counter()
                response = await pool.ask(server.request(text))
                caller_ms, model_ms = (
                    1000 * (time.perf_counter() - sent),
                    json.loads(response.body)["timing"]["model_ms"],
                )
                for name, taken in zip(MEASURES, (caller_ms, model_ms, caller_ms - model_ms), strict=True):
                    times[name] += [taken] if turn else []
        pool.close()

    with started(server, options.work) as running:
        asyncio.run(ask_all(running.port))
    return {"texts": len(texts), "rounds": options.rounds, "times": times}


def report(figures: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows: list[list[Cell]] = [
        [name, *(f"{percentile(times, q):.2f}" for q in QUANTILES)] for name, times in figures["times"].items()
    ]
    head = f"`models/default`, {figures['texts']} articles, {figures['rounds']} rounds."
    return f"{head}\n\n{table(['ms', *(f'p{q}' for q in QUANTILES)], rows)}"


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__, rounds=3)
    arguments.add_argument("--articles", type=int, default=60, help="sent one by one")
    run_part(arguments, "low-load", measure, report, rounds=1, articles=10)


if __name__ == "__main__":
    run(main)
