"""A request to vLLM's `/classify`, and the answer that its documentation shows.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#classification-api; no client library has a call
for it. Fields: vllm/entrypoints/pooling/classify/protocol.py (ClassificationRequest, ClassificationResponse).
"""

import httpx
import pytest

from tests.integration.third_party.conftest import BUSINESS, SPORT


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_classify(url: str, path: str) -> None:
    request = {"model": "jason9693/Qwen2.5-1.5B-apeach", "input": [SPORT, BUSINESS], "user": "a", "priority": 0}
    response = httpx.post(f"{url}{path}", json=request, trust_env=False)
    answer = response.raise_for_status().json()
    assert set(answer) == {"id", "object", "created", "model", "data", "usage"}
    assert answer["object"] == "list" and answer["id"].startswith("classify-") and answer["created"] > 1.7e9
    assert [one["label"] for one in answer["data"]] == ["sport", "business"]
    for index, one in enumerate(answer["data"]):
        assert set(one) == {"index", "label", "probs", "num_classes"}
        assert one["index"] == index and len(one["probs"]) == one["num_classes"] == 5
        assert sum(one["probs"]) == pytest.approx(1, abs=1e-5)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] > 20 and usage["completion_tokens"] == 0


def test_one_text(url: str) -> None:
    request = {"input": SPORT}
    [one] = httpx.post(f"{url}/classify", json=request, trust_env=False).json()["data"]
    assert one["label"] == "sport"


def test_health(url: str) -> None:
    response = httpx.get(f"{url}/health", trust_env=False)
    assert (response.status_code, response.content) == (200, b"")
