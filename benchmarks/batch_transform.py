"""The service under a SageMaker batch transform, without SageMaker: throughput beside the bare engine in the same run.

    python -m benchmarks.batch_transform
    python -m benchmarks.batch_transform --records 2000 --rounds 1

Does what the platform does with one input file (SplitType Line, BatchStrategy MultiRecord, AssembleWith Line): asks
`/execution-parameters`, gathers lines into requests of at most MaxPayloadInMB, keeps MaxConcurrentTransforms of them at
`/invocations`, and puts the answers together in the order of the input. Every answer is compared with the engine's.
Contract: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
"""

import asyncio
import csv
import io
import json
import random
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.load import Pool, Request
from benchmarks.machine import command, describe
from benchmarks.options import parser, run, save, say
from benchmarks.processes import ROOT
from benchmarks.servers import ours, up
from service.inference.engine import EncodedWindow, Engine, TextWindows

HOST = "127.0.0.1"
JSON_LINES, CSV = "application/jsonlines", "text/csv"
INVOCATIONS_TIMEOUT_S = 600.0
"""ModelClientConfig's default."""

INVOCATIONS_RETRIES = 3
MB = 1024 * 1024
PIECE = 256
"""Texts that the bare engine encodes at once."""

NEAR = 0.02
"""Largest difference of a probability that other neighbours in a batch may make, in the least precise arithmetic."""

WORDS = """
the shares goal film party market win actor vote sales team song law price cup band tax bank coach phone
minister profit match album software growth player award election network deal season show leader game oil
""".split()  # noqa: SIM905 (a list of strings would take 40 lines)


@dataclass(frozen=True)
class Parameters:
    """What `/execution-parameters` says, or the caller of the transform."""

    concurrent: int
    payload_bytes: int


@dataclass(frozen=True)
class Transformed:
    """One file's answers."""

    lines: list[str]
    """In the order of the input."""
    requests: int
    seconds: float


def short_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of six words, mostly a token each."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choices(WORDS, k=6))] = None
    return list(texts)


def records(texts: Sequence[str], content_type: str) -> list[bytes]:
    """A line a text, without its end."""
    if content_type == CSV:
        return [text.encode() for text in texts]
    return [json.dumps({"text": text}).encode() for text in texts]


def mini_batches(lines: Sequence[bytes], payload_bytes: int) -> list[list[bytes]]:
    """MultiRecord: as many whole lines a request as fit.

    Raises:
        BenchmarkError: a line alone is too long, for which the platform gives up the file.
    """
    batches: list[list[bytes]] = []
    size = payload_bytes + 1
    for line in lines:
        if len(line) + 1 > payload_bytes:
            raise BenchmarkError(f"a record of {len(line)} bytes does not fit a request of {payload_bytes}")
        if size + len(line) + 1 > payload_bytes:
            batches.append([])
            size = 0
        batches[-1].append(line)
        size += len(line) + 1
    return batches


async def transform(
    port: int,
    lines: Sequence[bytes],
    content_type: str,
    *,
    payload_bytes: int | None = None,
    concurrent: int | None = None,
) -> Transformed:
    """All lines through a service on this machine.

    Args:
        port: of the service.
        lines: records, without line ends.
        content_type: of requests and answers.
        payload_bytes: most bytes a request; default: what the service says.
        concurrent: requests at a time; default: what the service says.

    Raises:
        BenchmarkError: a request failed after its retries, or the answers are not as many as the records.
    """
    pool = Pool(HOST, port)
    try:
        said = await _execution_parameters(pool)
        batches = mini_batches(lines, payload_bytes or said.payload_bytes)
        turn = asyncio.Semaphore(concurrent or said.concurrent)

        async def answered(batch: Sequence[bytes]) -> list[str]:
            async with turn:
                return await _invoke(pool, batch, content_type)

        started = time.perf_counter()
        answers = await asyncio.gather(*(answered(batch) for batch in batches))
        seconds = time.perf_counter() - started
    finally:
        await pool.close()
    return Transformed([line for answer in answers for line in answer], len(batches), seconds)


async def _execution_parameters(pool: Pool) -> Parameters:
    response = await pool.ask(Request("/execution-parameters"))
    if response.status != 200:
        raise BenchmarkError(f"/execution-parameters answered {response.status}")
    said = json.loads(response.body)
    if said["BatchStrategy"] != "MULTI_RECORD":
        raise BenchmarkError(f"the service wants {said['BatchStrategy']}")
    return Parameters(said["MaxConcurrentTransforms"], said["MaxPayloadInMB"] * MB)


async def _invoke(pool: Pool, batch: Sequence[bytes], content_type: str) -> list[str]:
    request = Request("/invocations", b"\n".join(batch) + b"\n", content_type, content_type)
    status, body = 0, b""
    for _ in range(1 + INVOCATIONS_RETRIES):
        try:
            response = await pool.ask(request, INVOCATIONS_TIMEOUT_S)
        except OSError as exc:
            status, body = 0, str(exc).encode()
            continue
        status, body = response.status, response.body
        if status == 200:
            lines = body.decode().removesuffix("\n").split("\n")
            if len(lines) != len(batch):
                raise BenchmarkError(f"{len(batch)} records, {len(lines)} answers")
            return lines
        if status < 500 and status != 429:  # the request itself is wrong: asking again changes nothing
            break
    raise BenchmarkError(f"/invocations answered {status or 'nothing'}: {body[:300].decode(errors='replace')}")


def best(lines: Sequence[str], content_type: str) -> list[tuple[str, float]]:
    """Label and probability of each answer."""
    if content_type == CSV:
        return [(row[0], float(row[1])) for row in csv.reader(io.StringIO("\n".join(lines)))]
    answers = [json.loads(line) for line in lines]
    return [max(answer.items(), key=lambda pair: pair[1]) for answer in answers]


def bare(engine: Engine, texts: Sequence[str]) -> list[tuple[str, float]]:
    """What the engine alone answers, in batches of its own budget: encoded, inferred, decoded."""
    found = []
    for start in range(0, len(texts), PIECE):
        encoded = [one for one in engine.encode(texts[start : start + PIECE], None) if isinstance(one, TextWindows)]
        items = [item for one in encoded for item in one.items]
        logits = [row for batch in _batches(items, engine.info.max_batch_tokens) for row in engine.infer(batch)]
        for one in encoded:
            prediction = engine.decode(one, [logits.pop(0) for _ in one.items])
            found.append((prediction.label, prediction.score))
    return found


def _batches(items: Sequence[EncodedWindow], budget: int) -> list[list[EncodedWindow]]:
    batches: list[list[EncodedWindow]] = []
    tokens = budget + 1
    for item in items:
        if tokens + item.computed > budget:
            batches.append([])
            tokens = 0
        batches[-1].append(item)
        tokens += item.computed
    return batches


def disagreements(got: Sequence[tuple[str, float]], expected: Sequence[tuple[str, float]]) -> int:
    """Answers that are not those of their own text: the probability is off, or the label where it is not close."""
    if len(got) != len(expected):
        raise BenchmarkError(f"{len(expected)} records, {len(got)} answers")
    return sum(
        abs(score - wanted) > NEAR or (label != name and wanted > 0.5 + NEAR)
        for (label, score), (name, wanted) in zip(got, expected, strict=True)
    )


Way = Callable[[], tuple[list[tuple[str, float]], int, float]]
"""Gives answers, requests and seconds."""


def measure(options: Namespace) -> dict[str, Any]:
    """Raw figures: seconds of each round, of the service with each content type and of the bare engine."""
    from service.model.torch_engine import load_torch_engine
    from service.settings import Settings

    texts = short_texts(options.records, options.seed)
    figures: dict[str, Any] = {"records": len(texts), "machine": describe(), "command": command(), "seconds": {}}
    with up(ours(options.artifact), options.work) as running:
        info = asyncio.run(_info(running.port))
        engine = load_torch_engine(
            Settings(model_dir=options.artifact, precision=info["precision"], max_batch_tokens=info["max_batch_tokens"])
        )
        figures |= {key: info[key] for key in ("precision", "max_batch_tokens")}
        ways: dict[str, Callable[[], tuple[list[tuple[str, float]], int, float]]] = {
            "bare engine": _timed(engine, texts)
        }
        for content_type in (JSON_LINES, CSV):
            lines = records(texts, content_type)
            for name, payload in ((content_type, None), (f"{content_type}, 8 requests", _eighth(lines))):
                ways[name] = _transformed(running.port, lines, content_type, payload)
        expected: list[tuple[str, float]] = []
        for turn in range(options.rounds):
            for name, way in ways.items():
                say(f"round {turn + 1} of {options.rounds}: {name}")
                answers, requests, seconds = way()
                expected = expected or answers
                wrong = disagreements(answers, expected)
                if wrong:
                    raise BenchmarkError(f"{name}: {wrong} answers are not those of their texts")
                figures["seconds"].setdefault(name, []).append(seconds)
                figures.setdefault("requests", {})[name] = requests
    return figures


def _eighth(lines: Sequence[bytes]) -> int:
    return max(sum(len(line) + 1 for line in lines) // 8 + 1, 1 + max(map(len, lines)))


async def _info(port: int) -> dict[str, Any]:
    pool = Pool(HOST, port)
    try:
        model = json.loads((await pool.ask(Request("/info"))).body)
    finally:
        await pool.close()
    return {"precision": model["model"]["precision"], "max_batch_tokens": model["model"]["max_batch_tokens"]}


def _timed(engine: Engine, texts: Sequence[str]) -> Way:
    def way() -> tuple[list[tuple[str, float]], int, float]:
        started = time.perf_counter()
        answers = bare(engine, texts)
        return answers, 0, time.perf_counter() - started

    return way


def _transformed(port: int, lines: Sequence[bytes], content_type: str, payload: int | None) -> Way:
    def way() -> tuple[list[tuple[str, float]], int, float]:
        done = asyncio.run(transform(port, lines, content_type, payload_bytes=payload))
        return best(done.lines, content_type), done.requests, done.seconds

    return way


def rates(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Records a second (median of the rounds) and their part of the bare engine's."""
    per_s = {name: figures["records"] / median(seconds) for name, seconds in figures["seconds"].items()}
    return {name: {"records_per_s": rate, "of_bare": rate / per_s["bare engine"]} for name, rate in per_s.items()}


def main() -> None:
    arguments = parser(__doc__, artifact=str(ROOT / "models" / "default"), rounds=3)
    arguments.add_argument("--records", type=int, default=20_000)
    options = arguments.parse_args()
    options.artifact = Path(options.artifact)
    if options.quick:
        options.records, options.rounds = min(options.records, 1000), 1
    figures = measure(options)
    save(options, "batch_transform", figures)
    print(f"records={figures['records']}; precision={figures['precision']};")
    for name, rate in rates(figures).items():
        print(f"{name}: " + " ".join(f"{key}={value:.4g};" for key, value in rate.items()))


if __name__ == "__main__":
    run(main)
