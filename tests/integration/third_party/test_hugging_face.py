"""huggingface_hub's InferenceClient, pointed at the service as at an Inference Endpoint."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.integration.third_party.conftest import BUSINESS, SPORT


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite keeps this package off the hub; here it asks this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("argument", ["model", "base_url"])
def test_text_classification(url: str, argument: str) -> None:
    client = InferenceClient(model=url) if argument == "model" else InferenceClient(base_url=url)
    answer = client.text_classification(SPORT)
    assert len(answer) == 5 and answer[0].label == "sport"
    assert sum(element.score for element in answer) == pytest.approx(1, abs=1e-5)
    assert [element.score for element in answer] == sorted((element.score for element in answer), reverse=True)
    [best] = client.text_classification(BUSINESS, top_k=1, function_to_apply="softmax")
    assert best.label == "business"


def test_several_texts(url: str) -> None:
    """Typed for one text; what it sends for a list is the same request with a list, of which it takes the first."""
    [best] = InferenceClient(model=url).text_classification([SPORT, BUSINESS], top_k=1)  # type: ignore[arg-type]
    assert best.label == "sport"


def test_endpoint_helpers(url: str) -> None:
    client = InferenceClient(provider="hf-inference", model=url)
    assert client.health_check() is True
    assert client.get_endpoint_info()["model"]["labels"]


def test_errors_reach_the_caller(url: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(model=url).text_classification(SPORT, function_to_apply="sigmoid")
    assert caught.value.response.status_code == 422 and "function_to_apply" in str(caught.value)
