"""boto3's SageMaker runtime client, through a stand-in for the endpoint."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.integration.third_party.conftest import BUSINESS, SPORT
from tests.support.sagemaker_endpoint import MAX_BODY_BYTES, NAME, sagemaker_endpoint


@pytest.fixture(scope="module")
def runtime(url: str) -> Iterator[Any]:
    with sagemaker_endpoint(url) as endpoint_url:
        client = boto3.client(
            "sagemaker-runtime",
            endpoint_url=endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="none",
            aws_secret_access_key="none",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )
        yield client
        client.close()


def invoke(runtime: Any, body: object, **arguments: str) -> tuple[dict[str, Any], bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = runtime.invoke_endpoint(
        EndpointName=NAME, Body=content, **({"ContentType": "application/json"} | arguments)
    )
    with response["Body"] as stream:
        return response, stream.read()


def test_the_articles_form(runtime: Any) -> None:
    response, body = invoke(runtime, {"text": SPORT})
    answer = json.loads(body)
    assert max(answer, key=answer.get) == "sport" and sum(answer.values()) == pytest.approx(1, abs=1e-5)
    assert (response["ContentType"], response["InvokedProductionVariant"]) == ("application/json", "AllTraffic")


def test_hugging_faces_and_tensorflows_forms(runtime: Any) -> None:
    _, body = invoke(runtime, {"inputs": [SPORT, BUSINESS], "parameters": {"top_k": 1}})
    assert [[score["label"] for score in one] for one in json.loads(body)] == [["sport"], ["business"]]
    _, body = invoke(runtime, {"instances": [{"text": SPORT}, BUSINESS]})
    assert [one["label"] for one in json.loads(body)["predictions"]] == ["sport", "business"]


def test_lines_csv_and_text(runtime: Any) -> None:
    lines = "\n".join(json.dumps({"text": text}) for text in (SPORT, BUSINESS)).encode()
    response, body = invoke(runtime, lines, ContentType="application/jsonlines", Accept="application/jsonlines")
    answers = [json.loads(line) for line in body.split(b"\n")]
    assert [max(answer, key=answer.get) for answer in answers] == ["sport", "business"]
    assert response["ContentType"] == "application/jsonlines"
    response, body = invoke(runtime, f'"{SPORT}"\n"{BUSINESS}"'.encode(), ContentType="text/csv", Accept="text/csv")
    assert [row.split(b",")[0] for row in body.split(b"\n")] == [b"sport", b"business"]
    response, body = invoke(runtime, SPORT.encode(), ContentType="text/plain", Accept="text/plain")
    assert body == b"sport" and response["ContentType"].startswith("text/plain")


def test_custom_attributes_go_both_ways(runtime: Any) -> None:
    response, _ = invoke(runtime, {"text": SPORT}, CustomAttributes="trace=c000b4f9-df62-4c85-a0bf-7c525f9104a4")
    assert response["CustomAttributes"] == "trace=c000b4f9-df62-4c85-a0bf-7c525f9104a4"


@pytest.mark.parametrize(
    ("body", "arguments", "status", "kind"),
    [
        ({"text": " "}, {}, 422, "empty_text"),
        ({"texts": ["a"]}, {}, 422, "invalid_request"),
        (b"{", {}, 400, "invalid_json"),
        (b"a", {"ContentType": "image/png"}, 415, "unsupported_media_type"),
        ({"text": SPORT}, {"Accept": "image/png"}, 406, "not_acceptable"),
        ({"text": "a" * 6_100_000}, {}, 413, "body_too_large"),
    ],
)
def test_an_error_of_the_container_is_a_model_error(
    runtime: Any, body: object, arguments: dict[str, str], status: int, kind: str
) -> None:
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        invoke(runtime, body, **arguments)
    response = caught.value.response
    assert response["OriginalStatusCode"] == status
    assert json.loads(response["OriginalMessage"])["kind"] == kind


def test_what_never_reaches_the_container(runtime: Any) -> None:
    with pytest.raises(ClientError, match="413"):
        invoke(runtime, b"a" * (MAX_BODY_BYTES + 1))
    with pytest.raises(ClientError, match="not found") as caught:
        runtime.invoke_endpoint(EndpointName="other", Body=b"{}")
    assert caught.value.response["Error"]["Code"] == "ValidationError"
