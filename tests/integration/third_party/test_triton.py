"""Triton's HTTP client over the Open Inference Protocol."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.integration.third_party.conftest import BUSINESS, SPORT

TEXTS = (SPORT, BUSINESS, "Un \u00e9t\u00e9 \u00e0 Paris")


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(url.removeprefix("http://"), network_timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def name(client: InferenceServerClient, url: str) -> str:
    return str(httpx.get(f"{url}/info", trust_env=False).json()["model"]["name"])


def tensor(*texts: str, binary: bool, shape: tuple[int, ...] | None = None) -> InferInput:
    shape = shape or (len(texts),)
    one = InferInput("text", list(shape), "BYTES")
    one.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape), binary)
    return one


def test_health_and_metadata(client: InferenceServerClient, name: str) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(name)
    server = client.get_server_metadata()
    assert server["name"] == "gpt2-classifier" and "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata(name)
    [version] = model["versions"]
    assert client.is_model_ready(name, version) and client.get_model_metadata(name, version) == model
    assert [tensor["name"] for tensor in model["inputs"]] == ["text"]
    config = client.get_model_config(name, version)
    assert config["max_batch_size"] == 0 and config["input"] == [
        {"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}
    ]
    assert not client.is_model_ready("other")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client: InferenceServerClient, name: str, binary: bool, binary_out: bool) -> None:
    wanted = [InferRequestedOutput(output, binary_data=binary_out) for output in ("label", "probabilities")]
    result = client.infer(name, [tensor(*TEXTS, binary=binary)], outputs=wanted, request_id="call-1")
    assert result.get_response()["id"] == "call-1"
    labels, probabilities = result.as_numpy("label"), result.as_numpy("probabilities")
    assert [label if isinstance(label, str) else label.decode() for label in labels[:2]] == ["sport", "business"]
    assert probabilities.shape == (3, 5) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert result.as_numpy("score") is None  # not asked for


def test_binary_and_json_give_the_same(client: InferenceServerClient, name: str) -> None:
    answers = [client.infer(name, [tensor(*TEXTS, binary=binary)]) for binary in (True, False)]
    one, other = (answer.as_numpy("probabilities") for answer in answers)
    assert np.allclose(one, other, atol=1e-5) and answers[0].as_numpy("score").shape == (3,)


def test_a_column_and_a_version(client: InferenceServerClient, name: str) -> None:
    [version] = client.get_model_metadata(name)["versions"]
    column = tensor(SPORT, BUSINESS, binary=True, shape=(2, 1))
    assert client.infer(name, [column], model_version=version).as_numpy("label").shape == (2,)


def test_several_calls_at_once(client: InferenceServerClient, name: str) -> None:
    calls = [client.async_infer(name, [tensor(SPORT, binary=True)], request_id=str(i)) for i in range(3)]
    assert [call.get_result().get_response()["id"] for call in calls] == ["0", "1", "2"]


def test_errors_reach_the_caller(client: InferenceServerClient, name: str) -> None:
    with pytest.raises(InferenceServerException, match="text 1: "):
        client.infer(name, [tensor(SPORT, " ", binary=True)])
    with pytest.raises(InferenceServerException, match="there is one model here"):
        client.infer("other", [tensor(SPORT, binary=True)])
