"""SageMaker's routes in every form of body and answer, over the fake engine."""

import json
from typing import Any

import httpx
import pytest

from service.errors import STATUS
from tests.support import invocation_cases
from tests.support.app import Service, ServiceFactory, longest_turn_of
from tests.support.fake_engine import LABELS, expected_label

pytestmark = pytest.mark.anyio


async def invoke(service: Service, body: str | bytes, content_type: str, accept: str | None = None) -> httpx.Response:
    headers = {"content-type": content_type} | ({"accept": accept} if accept else {"accept": ""})
    return await service.client.post("/invocations", content=body, headers=headers)


def top(text: str) -> dict[str, Any]:
    return {"label": expected_label(text), "score": 1.0}


def ranked(text: str) -> list[tuple[str, float]]:
    """The fake engine's probabilities: all of it for one label, the others in their order."""
    return sorted(((label, float(label == expected_label(text))) for label in LABELS), key=lambda pair: -pair[1])


@pytest.mark.parametrize("case", invocation_cases.CASES, ids=lambda case: case.name)
async def test_json_in_its_three_shapes(service: Service, case: invocation_cases.InvocationCase) -> None:
    response = await service.post("/invocations", case.body)
    assert (response.status_code, response.json()) == (200, case.answer(ranked))


@pytest.mark.parametrize("body", invocation_cases.REFUSED, ids=json.dumps)
async def test_bodies_of_another_shape_are_refused(service: Service, body: Any) -> None:
    response = await service.post("/invocations", body)
    assert (response.status_code, response.json()["kind"]) == (422, "invalid_request")


async def test_one_output_line_for_each_input_line(service: Service) -> None:
    lines = """{"text": "a"}
{"inputs": "bb"}

{broken
{"text": 5}
"ccc"
{"inputs": ["a", "poison"], "parameters": {"top_k": 1}}
{"instances": ["a"]}
{"text": ""}
"""
    response = await invoke(service, lines, "application/jsonlines")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/jsonlines")
    answers = [json.loads(line) for line in response.text.split("\n")]
    assert len(answers) == 9
    assert answers[0][expected_label("a")] == 1.0 and answers[1] == [top("bb")]
    assert [a["kind"] for a in answers[2:5]] == ["invalid_json", "invalid_json", "invalid_request"]
    assert answers[5][expected_label("ccc")] == 1.0
    assert answers[6][0] == [top("a")] and answers[6][1]["kind"] == "inference_failed"
    assert answers[7] == {"predictions": [top("a")]} and answers[8]["kind"] == "empty_text"


async def test_thousands_of_lines_are_no_more_than_a_request_may_have(service_with: ServiceFactory) -> None:
    async with service_with(max_texts=2, max_queue_items=70) as service:
        texts = [f"{'x' * (i % 13)} {i}" for i in range(3000)]
        body = "\n".join(json.dumps({"text": text}) for text in texts)
        answers = (await invoke(service, body, "application/jsonlines")).text.split("\n")
    assert [max(json.loads(a).items(), key=lambda pair: pair[1])[0] for a in answers] == list(
        map(expected_label, texts)
    )


@pytest.mark.parametrize(("line", "declared"), [("", "text/csv"), ("x,y", "text/csv"), ("{", "application/jsonlines")])
async def test_thousands_of_wrong_lines_leave_others_their_turn(service: Service, line: str, declared: str) -> None:
    call = invoke(service, f"{line}\n" * 30_000, declared)
    response, longest_s = await longest_turn_of(call)
    assert response.status_code == 200 and response.text.count("\n") == 29_999
    assert longest_s < 0.1, "a turn for each 64 lines"


@pytest.mark.parametrize("accept", ["application/json", "application/jsonlines", "text/csv", "text/plain"])
async def test_answers_in_every_form_keep_their_number(service: Service, accept: str) -> None:
    response = await invoke(service, "a word\nx,y\n\n" * 100, "text/csv", accept)
    answers = response.json() if accept == "application/json" else response.text.split("\n")
    assert len(answers) == 300 and answers[::3] == answers[:1] * 100 and answers[2::3] == answers[2:3] * 100


async def test_a_body_that_breaks_off_is_refused_before_any_row_of_it_is_classified(service: Service) -> None:
    response = await invoke(service, "a word\n" * 100 + '"never closed', "text/csv")
    assert (response.status_code, response.json()["kind"]) == (400, "invalid_body")
    assert await service.metric("classifier_texts_total") == 0


async def test_csv(service: Service) -> None:
    response = await invoke(service, '"a, quoted"\n\nbb,cc\npoison\n', "text/csv; charset=utf-8")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = response.text.split("\n")
    assert rows == [f"{expected_label('a, quoted')},1,", ",,empty_text", ",,invalid_request", ",,inference_failed"]


async def test_plain_text_is_one_text(service: Service) -> None:
    response = await invoke(service, "two\nlines", "text/plain")
    assert response.json()[expected_label("two\nlines")] == 1.0
    label = await invoke(service, "two\nlines", "text/plain", "text/plain")
    assert label.text == expected_label("two\nlines")
    empty = await invoke(service, " ", "text/plain")
    assert (empty.status_code, empty.json()["kind"]) == (422, "empty_text")


TWO_INPUTS = '{"inputs": ["a", "bb"]}'


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "answer"),
    [
        (TWO_INPUTS, "application/json", "text/csv", f"{expected_label('a')},1,\n{expected_label('bb')},1,"),
        (TWO_INPUTS, "application/json", "text/plain", f"{expected_label('a')}\n{expected_label('bb')}"),
        (TWO_INPUTS, "application/json", "application/jsonlines", json.dumps([top("a"), top("bb")])),
        ('"a"\n""\n""\n', "application/jsonlines", "text/plain", f"{expected_label('a')}\n\n"),
    ],
)
async def test_an_answer_may_have_another_form_than_its_body(
    service: Service, body: str, content_type: str, accept: str, answer: str
) -> None:
    response = await invoke(service, body, content_type, accept)
    assert (response.status_code, response.text) == (200, answer)


async def test_lines_may_be_answered_as_one_list(service: Service) -> None:
    response = await invoke(service, '{"inputs": "a"}\n{"inputs": "bb"}', "application/jsonlines", "application/json")
    assert response.json() == [[top("a")], [top("bb")]]


async def test_sagemakers_setting_decides_where_the_caller_does_not(service_with: ServiceFactory) -> None:
    async with service_with(default_accept="text/csv") as service:
        assert (await invoke(service, '{"text": "a"}', "application/json")).text.endswith(",1,")
        assert (await invoke(service, '{"text": "a"}', "application/json", "application/json")).json()


async def test_transformers_parameters_hold_for_each_input(service: Service) -> None:
    async def call(inputs: Any, **parameters: Any) -> Any:
        return (await service.post("/invocations", {"inputs": inputs, "parameters": parameters})).json()

    assert await call("a goal", top_k=1) == [top("a goal")]
    empty, answered = await call(["", "a goal"], top_k=1)
    assert empty["kind"] == "empty_text" and answered == [top("a goal")]
    assert (await call(["word " * 60], truncation=True))[0] == top("word " * 60)


async def test_a_list_of_one_has_its_error_in_its_place(service: Service) -> None:
    for accept in ("application/json", "application/jsonlines"):
        answer = await invoke(service, '{"inputs": [""]}', "application/json", accept)
        assert (answer.status_code, answer.json()[0]["kind"]) == (200, "empty_text")


async def test_the_limit_of_texts_holds_in_every_form(service_with: ServiceFactory) -> None:
    body = '{"inputs": ["a", "b", "c"]}'
    async with service_with(max_texts=2) as service:
        for accept in ("application/json", "text/csv"):
            answer = await invoke(service, body, "application/json", accept)
            assert (answer.status_code, answer.json()["kind"]) == (413, "too_many_texts")
        lines = await invoke(service, f'"a"\n{body}', "application/jsonlines")
        assert json.loads(lines.text.split("\n")[1])["kind"] == "too_many_texts"


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "kind"),
    [
        ("a", "image/png", None, "unsupported_media_type"),
        ('{"text": "a"}', "application/json", "image/png", "not_acceptable"),
        ('"never closed', "text/csv", None, "invalid_body"),
        (b"\xff\xff", "text/plain", None, "invalid_body"),
        ("\n\n", "application/jsonlines", None, "invalid_body"),
        ("{broken", "application/json", "text/csv", "invalid_json"),
        ('{"text": 1}', "application/json", "text/csv", "invalid_request"),
        ('{"text": ""}', "application/json", "text/csv", "empty_text"),
    ],
)
async def test_what_concerns_the_call_is_its_status(
    service: Service, body: str | bytes, content_type: str, accept: str | None, kind: str
) -> None:
    response = await invoke(service, body, content_type, accept)
    assert (response.status_code, response.json()["kind"]) == (STATUS[kind], kind)


async def test_custom_attributes_come_back(service: Service) -> None:
    name = "X-Amzn-SageMaker-Custom-Attributes"
    for content_type, body in (("application/json", '{"text": "a"}'), ("text/csv", "a")):
        headers = {"content-type": content_type, name: "trace=1"}
        assert (await service.client.post("/invocations", content=body, headers=headers)).headers[name] == "trace=1"
        headers[name] = "x" * 1025
        assert name not in (await service.client.post("/invocations", content=body, headers=headers)).headers


async def test_execution_parameters(service: Service) -> None:
    parameters = (await service.client.get("/execution-parameters")).json()
    assert parameters == {"MaxConcurrentTransforms": 2, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 1}
