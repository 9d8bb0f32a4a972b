"""The soak's own judgement: it must notice what is wrong, and nothing else."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import answers, attacks, tally
from benchmarks.soak.__main__ import parse
from benchmarks.soak.answers import KnownText, problem
from benchmarks.soak.faulty_requests import FaultyRequestMaker
from benchmarks.soak.requests import RequestMaker, ServedModel, SoakRequest, stream
from benchmarks.soak.streaming import EMPTY_EACH, StreamCall, answer_lines, expected_lines, pieces
from benchmarks.soak.tally import Promise, Tally
from benchmarks.soak.texts import make_texts
from benchmarks.soak.watched_service import Sample, growth
from benchmarks.tools.http1 import Connection, Lost, Response, chunk, get
from service.settings import Settings

SPORT = KnownText("the match", {"sport": 0.7, "tech": 0.2, "business": 0.1})
CLOSE = KnownText("the bill", {"sport": 0.40003, "tech": 0.39997, "business": 0.2})
LABELS = ("business", "sport", "tech")
MODEL = ServedModel("tiny", LABELS, 100_000)
TOLERANCE = 1e-4


def scored(scores: dict[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


def judged(scores: dict[str, float], known: KnownText = SPORT) -> str | None:
    return problem(json.dumps({"scores": scored(scores)}).encode(), answers.predict, [known], TOLERANCE)


def test_answer_as_alone_is_right() -> None:
    assert judged(dict(SPORT.scores)) is None
    assert judged({"sport": 0.70009, "tech": 0.19995, "business": 0.1}) is None
    assert judged({"sport": 0.7}) is None  # top_k


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ({"sport": 0.7002, "tech": 0.2, "business": 0.1}, "sport has 0.700200"),
        ({"tech": 0.2, "business": 0.1}, "label tech, alone sport"),
        ({"sport": 0.7, "weather": 0.3}, "unknown label 'weather'"),
        ({"sport": float("nan")}, "unreadable"),
        ({}, "no label"),
    ],
)
def test_answer_that_differs_is_noticed(scores: dict[str, float], found: str) -> None:
    assert found in (judged(scores) or "")


def test_label_may_change_only_where_the_tolerance_allows_it() -> None:
    assert judged({"tech": 0.40001, "sport": 0.39999, "business": 0.2}, CLOSE) is None


def test_missing_swapped_and_failed_results_are_noticed() -> None:
    def batch(*results: object) -> str | None:
        return problem(json.dumps({"results": results}).encode(), answers.batch, [SPORT, CLOSE], TOLERANCE)

    right = [{"scores": scored(dict(one.scores))} for one in (SPORT, CLOSE)]
    assert batch(*right) is None
    assert batch(right[0]) == "1 results for 2 texts"
    assert "text 0" in (batch(*reversed(right)) or "")
    assert batch(right[0], {"kind": "internal"}) == "text 1: the error internal instead of an answer (sport)"


def test_error_in_its_place_is_right_and_another_kind_is_not() -> None:
    body = json.dumps({"results": [{"kind": "empty_text"}]}).encode()
    assert problem(body, answers.batch, ["empty_text"], TOLERANCE) is None
    assert problem(body, answers.batch, ["invalid_json"], TOLERANCE)


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (answers.label_map, SPORT.scores),
        (answers.label_maps, [SPORT.scores]),
        (answers.pipeline_one, scored(dict(SPORT.scores))),
        (answers.pipeline_many, [scored(dict(SPORT.scores))]),
        (answers.pipeline_best, scored({"sport": 0.7})),
        (answers.predictions, {"predictions": scored({"sport": 0.7})}),
        (answers.vllm(LABELS), {"data": [{"label": "sport", "probs": [0.1, 0.7, 0.2]}]}),
        (
            answers.tensors(LABELS),
            {"outputs": [{"name": "label", "data": ["sport"]}, {"name": "probabilities", "data": [0.1, 0.7, 0.2]}]},
        ),
    ],
)
def test_every_form_is_read(read: answers.Read, body: object) -> None:
    raw = json.dumps(body)
    assert problem(raw.encode(), read, [SPORT], TOLERANCE) is None
    assert problem(raw.replace("0.7", "0.6").encode(), read, [SPORT], TOLERANCE)


def test_rows_lines_and_labels_are_read() -> None:
    assert problem(b"sport,0.7,\n,,empty_text\n", answers.rows, [SPORT, "empty_text"], TOLERANCE) is None
    assert problem(b"sport,0.6,\n", answers.rows, [SPORT], TOLERANCE)
    assert problem(b"sport\ntech", answers.labels, [SPORT, CLOSE], TOLERANCE) is None
    assert problem(b"tech", answers.labels, [SPORT], TOLERANCE)


REQUEST = SoakRequest("predict", b"", {200: (answers.predict, [SPORT]), 504: (answers.error, ["deadline_exceeded"])})
RIGHT = json.dumps({"scores": scored(dict(SPORT.scores))}).encode()


def broken(counts: Tally) -> list[str]:
    return [promise.found for promise in counts.promises() if not promise.kept]


def test_tally_keeps_quiet_about_what_is_right() -> None:
    counts = Tally(TOLERANCE)
    late = json.dumps({"error": "too late", "kind": "deadline_exceeded", "request_id": "1"}).encode()
    for status, body in ((200, RIGHT), (504, late)):
        counts.sent[REQUEST.kind] += 1
        counts.answer(REQUEST, Response(status, {}, body), 0.1)
    counts.sent[REQUEST.kind] += 1
    counts.left += 1
    assert not broken(counts) and not counts.examples
    assert counts.summary()["statuses"] == {"200": 1, "504": 1}


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, RIGHT.replace(b"0.7", b"0.8"), "1 wrong answers"),
        (500, b"Internal Server Error", "1 others"),
        (404, b"", "1 others"),
        (504, b"Gateway Timeout", "1 wrong answers"),  # not the service's shape of an error
    ],
)
def test_tally_notices_what_is_wrong(status: int, body: bytes, found: str) -> None:
    counts = Tally(TOLERANCE)
    counts.sent[REQUEST.kind] += 1
    counts.answer(REQUEST, Response(status, {}, body), 0.1)
    [only] = broken(counts)
    assert only.startswith(found) and len(counts.examples) == 1


def test_tally_notices_a_lost_answer_and_a_request_without_an_outcome() -> None:
    counts = Tally(TOLERANCE)
    counts.sent[REQUEST.kind] += 1
    assert broken(counts) == ["0 outcomes of 1 requests"]
    counts.lose(REQUEST, "cut")
    assert broken(counts) == ["1 lost"]


def test_growth_compares_the_end_with_what_had_settled() -> None:
    def samples(*mib: int) -> list[Sample]:
        return [Sample(done, one, 10, 10, 0.0) for done, one in enumerate(mib)]

    assert growth(samples(10, 20, *[100] * 40), 2) == 0
    assert growth(samples(10, 20, *[100] * 20, *[110] * 20), 2) == pytest.approx(0.1)
    assert growth(samples(10, 20, 100), 2) is None


def test_texts_are_all_different_and_the_same_for_a_seed() -> None:
    texts = make_texts(2000, 1)
    assert len(set(texts)) == 2000 and texts == make_texts(2000, 1) != make_texts(2000, 2)
    assert sorted(len(text.split()) for text in texts)[1000] < 15


def test_stream_of_asks_has_every_kind_and_is_the_same_for_a_seed() -> None:
    def asked(seed: int) -> list[SoakRequest]:
        rng = random.Random(seed)
        maker = RequestMaker([SPORT, CLOSE], MODEL, rng)
        return list(stream([*maker.makers(), *FaultyRequestMaker(maker).makers()], 3000, rng))

    first = asked(3)
    assert [one.wire for one in first] == [one.wire for one in asked(3)]
    kinds = Counter(one.kind for one in first)
    assert kinds["predict"] > 900 and len(kinds) > 45
    assert all(one.leaving or one.right for one in first)


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def with_server(answer: Answering, use: Callable[[int], Awaitable[None]]) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        await use(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", b"garbage\r\n\r\n"])
def test_answer_that_does_not_come_whole_is_lost_and_not_asked_again(sent: bytes) -> None:
    asked = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()
        await writer.wait_closed()

    async def use(port: int) -> None:
        with pytest.raises(Lost):
            await Connection("127.0.0.1", port).ask(get("/"))

    asyncio.run(with_server(cut, use))
    assert asked == 1


def lines_of(expected: Sequence[answers.Expected]) -> list[bytes]:
    return [
        json.dumps({"kind": one} if isinstance(one, str) else {"scores": scored(dict(one.scores))}).encode()
        for one in expected
    ]


def test_streamed_answers_are_judged_line_by_line() -> None:
    lines = 2 * EMPTY_EACH
    expected = list(itertools.islice(expected_lines([SPORT, CLOSE], 5), lines))
    assert expected.count("empty_text") == 2
    assert expected == list(itertools.islice(expected_lines([SPORT, CLOSE], 5), lines))
    right, swapped = StreamCall([SPORT, CLOSE], lines, 5, TOLERANCE), StreamCall([SPORT, CLOSE], lines, 5, TOLERANCE)
    answered = lines_of(expected)
    for line, wanted in zip(answered, expected, strict=True):
        right.judge(line, wanted)
    for line, wanted in zip([answered[-1], *answered[1:-1], answered[0]], expected, strict=True):
        swapped.judge(line, wanted)
    assert (right.read, right.wrong) == (lines, 0)
    assert swapped.wrong == 2 and "line 1:" in swapped.examples[0]


def test_streamed_answer_is_split_into_lines_wherever_its_chunks_end() -> None:
    async def read() -> list[bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(
            b"HTTP/1.1 200 OK\r\n\r\n" + chunk(b"one\ntw") + chunk(b"o\n") + chunk(b"three\n") + b"0\r\n\r\n"
        )
        return [line async for line in answer_lines(reader)]

    assert asyncio.run(read()) == [b"one", b"two", b"three"]


def test_lines_are_sent_in_chunks() -> None:
    sent = b"".join(pieces(iter([SPORT, "empty_text"])))
    assert sent == chunk(b'"the match"\n" "\n')


def test_summary_names_what_was_broken(tmp_path: Path) -> None:
    promises = [Promise("nothing is lost", False, "3 lost"), Promise("all is well", True, "yes")]
    assert not tally.write(tmp_path, "soak", {"sent": 3, "examples": ["lost: predict"]}, promises)
    page = (tmp_path / "soak.md").read_text()
    assert "1 of 2 promises broken" in page and "| **NO** | nothing is lost | 3 lost |" in page
    assert json.loads((tmp_path / "soak.json").read_text())["kept"] is False
    assert tally.write(tmp_path, "soak", {}, promises[1:])


def test_quick_only_changes_what_is_not_given() -> None:
    options = parse(["--quick", "--clients", "3"])
    assert (options.what, options.requests, options.clients) == ("mixed", 2000, 3)
    assert parse(["stream"]).lines == 200_000
    with pytest.raises(SystemExit):
        parse(["--requests", "0"])


@pytest.mark.anyio
async def test_an_attack_holds_its_connections_until_it_is_cancelled() -> None:
    opened, closed = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"first"
        opened.release()
        await reader.read()
        closed.release()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attack = asyncio.create_task(attacks.holding(3, b"first")(port))
        for _ in range(3):
            await opened.acquire()
        assert closed.locked()
        attack.cancel()
        for _ in range(3):
            await closed.acquire()


def test_attacks_are_what_the_service_allows() -> None:
    limits = Settings()
    assert len(attacks.RARE) == limits.max_text_chars and len(attacks.RARE.encode()) == 4 * limits.max_text_chars
    assert len(attacks.attacks()) == 10 and len(attacks.background()) == 4
    assert attacks.CONNECTIONS > limits.max_requests > limits.max_streams


def test_a_refusal_beside_an_attack_is_noticed() -> None:
    assert attacks._all_answered({"statuses": {"200": 3}})
    assert not attacks._all_answered({"statuses": {"200": 3, "429": 1}})
    assert not attacks._all_answered({"statuses": {}})
