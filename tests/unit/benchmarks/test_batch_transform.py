"""A batch transform over the real service: as many answers as records, in their order, whatever the requests."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.batch_transform import (
    CSV,
    JSON_LINES,
    bare,
    best,
    disagreements,
    mini_batches,
    rates,
    records,
    short_texts,
    transform,
)
from benchmarks.errors import BenchmarkError
from classifier.artifact import Artifact
from service.model.torch_engine import load_torch_engine
from service.settings import Settings
from tests.support.service_process import ServiceProcess, service_process

TEXTS = short_texts(300)


@pytest.fixture(scope="module")
def service(artifact: Artifact) -> Iterator[ServiceProcess]:
    with service_process(
        artifact.directory, SERVICE_PRECISION="float32", SERVICE_MAX_BATCH_TOKENS="512", SERVICE_THREADS="1"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expected(artifact: Artifact) -> list[tuple[str, float]]:
    settings = Settings(model_dir=artifact.directory, precision="float32", max_batch_tokens=512, threads=1)
    return bare(load_torch_engine(settings), TEXTS)


@pytest.mark.parametrize("content_type", [JSON_LINES, CSV])
@pytest.mark.parametrize(("payload_bytes", "concurrent", "fewest"), [(None, None, 1), (1000, 4, 10), (200, 16, 50)])
def test_answers_are_complete_and_in_order(
    content_type: str,
    payload_bytes: int | None,
    concurrent: int | None,
    fewest: int,
    service: ServiceProcess,
    expected: list[tuple[str, float]],
) -> None:
    lines = records(TEXTS, content_type)
    done = asyncio.run(transform(service.port, lines, content_type, payload_bytes=payload_bytes, concurrent=concurrent))
    assert len(done.lines) == len(TEXTS)
    assert disagreements(best(done.lines, content_type), expected) == 0
    assert done.requests >= fewest and (payload_bytes or done.requests == 1)


def test_the_order_would_be_noticed(expected: list[tuple[str, float]]) -> None:
    assert disagreements(expected, expected) == 0
    assert disagreements(expected[1:] + expected[:1], expected) > len(TEXTS) / 10
    with pytest.raises(BenchmarkError, match="299 answers"):
        disagreements(expected[1:], expected)


def test_a_bad_line_has_its_error_in_its_place(service: ServiceProcess) -> None:
    lines = [b'{"text": "The striker scored."}', b"{broken", b'{"text": "Shares fell."}']
    done = asyncio.run(transform(service.port, lines, JSON_LINES))
    kinds: list[Any] = [json.loads(line).get("kind") for line in done.lines]
    assert kinds == [None, "invalid_json", None]


def test_a_refused_request_ends_the_transform(service: ServiceProcess) -> None:
    with pytest.raises(BenchmarkError, match="answered 415"):
        asyncio.run(transform(service.port, [b"x"], "application/x-recordio"))


def test_mini_batches_hold_whole_lines() -> None:
    lines = [b"a" * 3, b"b" * 4, b"c" * 1, b"d" * 9]
    assert mini_batches(lines, 10) == [lines[:2], lines[2:3], lines[3:]]
    assert mini_batches(lines, 100) == [lines]
    with pytest.raises(BenchmarkError, match="a record of 9 bytes"):
        mini_batches(lines, 9)


def test_short_texts_are_all_different_and_the_same_each_time() -> None:
    assert len(set(TEXTS)) == 300
    assert short_texts(300) == TEXTS


def test_rates_are_of_the_median_round() -> None:
    figures = {"records": 100, "seconds": {"bare engine": [1.0, 2.0, 1.0], "text/csv": [2.0, 2.0, 9.0]}}
    assert rates(figures) == {
        "bare engine": {"records_per_s": 100.0, "of_bare": 1.0},
        "text/csv": {"records_per_s": 50.0, "of_bare": 0.5},
    }
