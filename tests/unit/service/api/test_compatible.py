"""Other servers' wires, over the fake engine."""

import json
from typing import Any

import pytest

from tests.support.app import Service, ServiceFactory
from tests.support.fake_engine import LABELS, expected_label

pytestmark = pytest.mark.anyio

INFER = "/v2/models/fake/infer"


def one_hot(text: str) -> list[float]:
    return [float(label == expected_label(text)) for label in LABELS]


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
async def test_vllms_classify(service: Service, path: str) -> None:
    body = (await service.post(path, {"model": "any", "input": ["a", "", "bb"], "user": "somebody"})).json()
    assert (body["object"], body["model"], body["id"][:9]) == ("list", "fake", "classify-")
    first, error, last = body["data"]
    assert first == {"index": 0, "label": expected_label("a"), "probs": one_hot("a"), "num_classes": 3}
    assert error["kind"] == "empty_text" and last["index"] == 2 and last["probs"] == one_hot("bb")
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0}
    assert len((await service.post(path, {"input": "a"})).json()["data"]) == 1
    assert (await service.post(path, {"input": []})).json()["kind"] == "invalid_request"
    assert (await service.post(path, {"input": ""})).status_code == 422


async def test_hugging_faces_root(service: Service) -> None:
    body = (await service.post("/", {"inputs": "a", "parameters": {"top_k": 1}, "options": {}})).json()
    assert body == [[{"label": expected_label("a"), "score": 1.0}]]
    several = (await service.post("/", {"inputs": ["a", "poison", "bb"]})).json()
    assert [len(several[0]), several[1]["kind"], len(several[2])] == [3, "inference_failed", 3]
    assert (await service.post("/", {"inputs": ""})).status_code == 422


def tensor(*texts: str, **changes: Any) -> dict[str, Any]:
    one = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return {"id": "7", "inputs": [one | changes]}


async def test_open_inference_protocol(service: Service) -> None:
    get = service.client.get
    assert (await get("/v2")).json()["extensions"][0] == "binary_tensor_data"
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json()["ready"] is True
    assert (await get("/v2/models/fake/ready")).status_code == 200
    for path in ("/v2/models/fake", "/v2/models/fake/versions/0123456789ab"):
        assert (await get(path)).json()["outputs"][2]["shape"] == [-1, 3]
    for path in (INFER, "/v2/models/fake/versions/0123456789ab/infer"):
        body = (await service.post(path, tensor("a", "bb"))).json()
        assert (body["id"], body["model_name"], body["model_version"]) == ("7", "fake", "0123456789ab")
        outputs = {output["name"]: output for output in body["outputs"]}
        assert outputs["label"]["data"] == [expected_label("a"), expected_label("bb")]
        assert outputs["probabilities"]["data"] == one_hot("a") + one_hot("bb")
        assert outputs["probabilities"]["shape"] == [2, 3] and outputs["score"]["data"] == [1.0, 1.0]
    nested = (await service.post(INFER, tensor("a", "bb", shape=[2, 1], data=[["a"], ["bb"]]))).json()
    assert nested["outputs"][0]["shape"] == [2]


WRONG: list[dict[str, Any]] = [
    *({"name": "other"}, {"datatype": "FP32"}, {"data": [1]}, {"data": None}),
    *({"shape": shape} for shape in ([2], ["1"], [10**4000, 10**4000])),
]


@pytest.mark.parametrize("body", [{"inputs": []}, *(tensor("a", **changes) for changes in WRONG)])
async def test_tensors_that_do_not_fit_are_refused(service: Service, body: dict[str, Any]) -> None:
    response = await service.post(INFER, body)
    assert (response.status_code, response.json()["kind"]) == (422, "invalid_request")


async def test_an_empty_text_of_several_is_the_answers_error(service: Service) -> None:
    response = await service.post(INFER, tensor("a", ""))
    assert (response.status_code, response.json()["kind"]) == (422, "empty_text")
    assert response.json()["error"].startswith("text 1: ")


async def test_other_models_are_not_here(service: Service) -> None:
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/fake/versions/2"):
        response = await service.client.get(path)
        assert (response.status_code, response.json()["kind"]) == (404, "not_found")
    assert (await service.post("/v2/models/other/infer", tensor("a"))).status_code == 404


async def test_not_ready_is_said_in_the_protocols_words(service: Service) -> None:
    service.lifecycle.drain()
    response = await service.client.get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})


async def binary(service: Service, tail: bytes, **header: str) -> Any:
    """As Triton's clients send it: JSON, and behind it the strings."""
    one = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"inputs": [one]}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"} | header
    return await service.client.post(INFER, content=head + tail, headers=headers)


def element(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


async def test_the_binary_extension(service: Service) -> None:
    response = await binary(service, element("a") + element("é word"))
    assert response.json()["outputs"][0]["data"] == [expected_label("a"), expected_label("é word")]


async def test_more_strings_than_a_request_may_have_are_not_even_read(
    service_with: ServiceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.open_inference._read_strings", None)
    async with service_with(max_texts=1) as service:
        response = await binary(service, element("a") * 2)
        assert (response.status_code, response.json()["kind"]) == (413, "too_many_texts")


async def test_json_without_a_content_type_as_tritons_client_sends_it(service: Service) -> None:
    response = await service.client.post(INFER, content=json.dumps(tensor("a")).encode())
    assert response.json()["outputs"][0]["data"] == [expected_label("a")]


async def test_only_the_outputs_asked_for(service: Service) -> None:
    body = (await service.post(INFER, tensor("a") | {"outputs": [{"name": "score"}]})).json()
    assert [output["name"] for output in body["outputs"]] == ["score"]
    refused = await service.post(INFER, tensor("a") | {"outputs": [{"name": "other"}]})
    assert refused.json()["kind"] == "invalid_request"


@pytest.mark.parametrize(
    ("tail", "header", "kind"),
    [
        (element("a") + element("bb")[:-1], {}, "invalid_body"),
        (element("a") + b"\x01", {}, "invalid_body"),
        (element("a") + b"\x01\x00\x00\x00\xff", {}, "invalid_body"),
        (element("a"), {}, "invalid_request"),
        (element("a") * 3, {}, "invalid_body"),
        (b"", {"inference-header-content-length": "999999"}, "invalid_body"),
        (b"", {"inference-header-content-length": "x"}, "invalid_body"),
        (b"", {"inference-header-content-length": "3"}, "invalid_json"),
    ],
)
async def test_broken_binary_bodies(service: Service, tail: bytes, header: dict[str, str], kind: str) -> None:
    response = await binary(service, tail, **header)
    assert response.json()["kind"] == kind
