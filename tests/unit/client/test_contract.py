"""The client's models and errors against openapi.yaml and against the app itself."""

import asyncio
import types
import typing
from typing import Any, get_args, get_origin

import httpx
import pytest
import yaml
from pydantic import BaseModel

import client
from client import AnswerError, AsyncClient, BadText, ClientError, Prediction, TextError, models
from client.async_client import PASSING
from client.errors import TEXT_KINDS, error_class
from client.models import Info, Limits
from client.transport.http import HttpTransport
from client.transport.messages import STATUS, OptionFields, Reply, failure
from service.errors import STATUS as SERVICE_STATUS
from service.settings import Settings
from tests.support import ROOT
from tests.support.app import Service, ServiceFactory, reached
from tests.support.fake_engine import LABELS, FakeEngine, expected_label
from tests.support.live_service import live_service


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
    return loaded


PAIRS: dict[str, type[BaseModel]] = {
    "PredictResponse": models.Prediction,
    "TextResult": models.Prediction,
    "Score": models.Score,
    "WindowSpan": models.Span,
    "ModelBody": models.Model,
    "TimingBody": models.Timing,
    "ErrorBody": models.ServiceError,
    "InfoBody": models.Info,
    "Ready": models.Readiness,
}
LEFT_OUT = {"usage", "timing"}
"""Of /batch: nothing that a caller of predict_many could use."""


def schemas(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_every_field_of_the_service_has_its_type_here(document: dict[str, Any], name: str) -> None:
    schema, model = schemas(document)[name], PAIRS[name]
    for field, of_service in schema["properties"].items():
        assert field in model.model_fields, f"the service answers {name}.{field}, the client drops it"
        wanted = json_types(of_service)
        assert wanted <= annotated(model.model_fields[field].annotation), field


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_is_expected_that_the_service_does_not_promise(document: dict[str, Any], name: str) -> None:
    required = set(schemas(document)[name].get("required", ()))
    assert {field for field, info in PAIRS[name].model_fields.items() if info.is_required()} <= required


def json_types(schema: dict[str, Any]) -> set[str]:
    if "anyOf" in schema:
        return set().union(*(json_types(one) for one in schema["anyOf"]))
    return {"object"} if "$ref" in schema else {schema["type"]}


def annotated(kind: Any) -> set[str]:
    """The JSON types that a field takes."""
    origin = get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(annotated(one) for one in get_args(kind)))
    if origin is typing.Annotated:
        return annotated(get_args(kind)[0])
    if origin is typing.Literal:
        return {"string"}
    origin = origin or kind
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        return {"object"}
    names = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
    return {names[origin]} if origin in names else {"null"}


def test_batches(document: dict[str, Any]) -> None:
    batch = schemas(document)["BatchResponse"]["properties"]
    assert set(batch) - LEFT_OUT == set(models.Batch.model_fields)


def test_every_option_of_the_service_can_be_given(document: dict[str, Any]) -> None:
    for name, own in (("PredictRequest", {"text"}), ("BatchRequest", {"texts"})):
        offered = set(schemas(document)[name]["properties"]) - own
        assert offered <= set(OptionFields.__annotations__), name
        for field in ("top_k", "on_long", "timeout_ms", "spans"):
            assert field in offered


def test_limits_are_the_services_settings() -> None:
    for name, field in Limits.model_fields.items():
        assert Settings.model_fields[name].default == field.default, name


def test_every_kind_of_error_is_told_apart(document: dict[str, Any]) -> None:
    branches = {
        "unauthorized": client.Unauthorized,
        "overloaded": client.Overloaded,
        "not_ready": client.Unavailable,
        "draining": client.Unavailable,
        "deadline_exceeded": client.DeadlineExceeded,
        "internal": client.ServiceFault,
        "inference_failed": client.ServiceFault,
        "body_too_large": client.TooLarge,
        "text_too_large": client.TooLarge,
        "too_many_texts": client.TooLarge,
        "empty_text": BadText,
        "invalid_text": BadText,
        "text_too_long": BadText,
    }
    for kind, status in documented(document):
        wanted = branches.get(kind, client.BadRequest)
        assert error_class(status, kind) is wanted, kind
        body = f'{{"error": "e", "kind": "{kind}", "request_id": "r"}}'.encode()
        error = failure(Reply(status, body), "http://x")
        assert isinstance(error, AnswerError) and error.kind == kind
    assert set(branches) <= {kind for kind, _ in documented(document)} and set(SERVICE_STATUS) >= TEXT_KINDS | PASSING


def documented(document: dict[str, Any]) -> set[tuple[str, int]]:
    """(kind, status) of every error in the contract."""
    found = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                shared = document["components"]["responses"].get(response.get("$ref", "").rpartition("/")[2], response)
                examples = shared.get("content", {}).get("application/json", {}).get("examples", {})
                found |= {(kind, int(status)) for kind in examples if int(status) >= 400}
    return found


def test_statuses_of_texts_errors_are_the_services() -> None:
    for kind in TEXT_KINDS | set(STATUS):
        assert STATUS.get(kind, 422) == SERVICE_STATUS[kind]


def test_errors_are_explained_and_exported() -> None:
    from client import errors

    classes = {
        name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, ClientError)
    }
    assert all("__doc__" in vars(one) for one in classes.values()) and set(classes) <= set(client.__all__)
    assert client.__all__ == sorted(client.__all__, key=lambda name: (not name.isupper(), name))


def over(service: Service, **arguments: Any) -> AsyncClient:
    transport = HttpTransport("http://service", http=service.client, **arguments)
    return AsyncClient(transport=transport)


@pytest.mark.anyio
async def test_the_app_in_this_process(service_with: ServiceFactory) -> None:
    async with service_with(max_texts=8) as service:
        asking = over(service)
        assert await asking.ready(5) >= 0
        info = await asking.info()
        assert isinstance(info, Info) and info.model.labels == list(LABELS) and info.limits.max_texts == 8
        answer = await asking.predict("a text", spans=True)
        assert answer.label == expected_label("a text") and answer.tokens == 2 and answer.spans and answer.timing
        assert answer.model and answer.model.name == "fake" and answer.ok
        texts = [f"text {'x' * i}" if i % 9 else "" for i in range(100)]
        found = [outcome async for outcome in asking.predict_many(texts, top_k=1)]
        assert [isinstance(outcome, Prediction) for outcome in found] == [bool(text) for text in texts]
        assert "classifier_texts_total" in await asking.metrics()


@pytest.mark.anyio
async def test_long_texts(service_with: ServiceFactory) -> None:
    async with service_with() as service:
        asking, long = over(service), "word " * 60
        assert (await asking.predict(long)).windows == 2
        assert (await asking.predict(long, on_long="truncate")).truncated
        with pytest.raises(BadText, match="60 tokens, the limit is 50"):
            await asking.predict(long, on_long="error")
        [outcome] = [one async for one in asking.predict_many([long], on_long="error")]
        assert isinstance(outcome, TextError) and outcome.kind == "text_too_long"


@pytest.mark.anyio
async def test_keys(service_with: ServiceFactory) -> None:
    key = "a-key-of-enough-characters"
    async with service_with(api_keys=key) as service:
        with pytest.raises(client.Unauthorized, match="needs an API key"):
            await over(service).predict("a")
        assert (await over(service, api_key=key).predict("a")).ok
        assert await over(service).ready(5) >= 0, "readiness is open"


@pytest.mark.anyio
async def test_a_caller_who_is_cancelled_takes_the_work_along(service_with: ServiceFactory, engine: FakeEngine) -> None:
    async with service_with() as service:
        engine.gate.clear()
        asking = over(service)

        async def ask() -> None:
            async for _ in asking.predict_many(f"text {i}" for i in range(2000)):
                raise AssertionError("the gate is closed")

        task = asyncio.create_task(ask())
        await reached(engine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            while service.lifecycle.in_flight:
                await asyncio.sleep(0)


def test_over_a_socket_with_a_full_queue() -> None:
    with live_service(max_queue_items=40, max_texts=16) as service, client.Client(service.url) as asking:
        texts = [f"text {i}" for i in range(400)]
        found = list(asking.predict_many(texts, concurrency=8))
        assert [getattr(one, "label", "") for one in found] == [expected_label(text) for text in texts]
        with httpx.Client(trust_env=False) as http:
            assert http.get(f"{service.url}/livez").status_code == 200
