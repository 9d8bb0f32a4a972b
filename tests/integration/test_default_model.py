"""The model that the service uses when it is told nothing, and the README that shows it."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from classifier.artifact import Artifact, read_artifact
from tests.integration.conftest import ADMIN_KEY
from tests.support import ROOT
from tests.support.service_process import ServiceProcess

DEFAULT = ROOT / "models" / "default"
ARTICLE = (ROOT / "examples" / "article.txt").read_text(encoding="utf-8")
SENTENCES = [
    ("The striker scored twice in the second half as the champions won the cup final.", "sport"),
    ("Shares in the bank fell after it warned that annual profits would miss forecasts.", "business"),
    ("The film won best picture and its leading actress took home her second Oscar.", "entertainment"),
    ("The company's new mobile phone lets users download software and browse the internet.", "tech"),
]


@pytest.fixture(scope="module")
def default() -> Artifact:
    return read_artifact(DEFAULT)


def test_it_is_small_and_says_where_it_comes_from(default: Artifact) -> None:
    size = sum(path.stat().st_size for path in DEFAULT.iterdir())
    assert size <= 30_000_000
    made = default.manifest.provenance
    assert made["recipe"]["seed"] == 42 and made["split_sizes"]["test"] > 200 and made["near_duplicate_groups"] == 2049
    assert re.fullmatch("[0-9a-f]{40}", made["git_commit"])
    card = (DEFAULT / "README.md").read_text(encoding="utf-8")
    assert "python -m training train" in card and "--seed 42" in card


def test_its_golden_texts_are_none_of_the_data_set(default: Artifact, shared: Path) -> None:
    data = (shared / "data" / "bbc" / "bbc_original.csv").read_text(encoding="utf-8")
    for golden in default.manifest.golden:
        if len(golden.text) > 40:
            assert golden.text[:40] not in data


def test_readme_examples_article_is_politics(default_service: ServiceProcess) -> None:
    with default_service.client() as client:
        body = client.post("/predict", json={"text": ARTICLE}).json()
    assert body["label"] == "politics" and not body["unsure"]


def test_plain_sentences_get_their_labels(default_service: ServiceProcess) -> None:
    with default_service.client() as client:
        results = client.post("/batch", json={"texts": [text for text, _ in SENTENCES]}).json()["results"]
    assert [result["label"] for result in results] == [label for _, label in SENTENCES]


def test_64_concurrent_articles_of_all_lengths_equal_each_alone(default_service: ServiceProcess) -> None:
    words = ARTICLE.split()
    texts = [" ".join((words * 6)[: 3 + i * i // 5]) for i in range(64)]
    with default_service.client() as client, ThreadPoolExecutor(64) as callers:
        together = [r.json() for r in callers.map(lambda t: client.post("/predict", json={"text": t}), texts)]
        alone = [client.post("/predict", json={"text": text}).json() for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert (one["tokens"], one["windows"]) == (other["tokens"], other["windows"])


CURL = [
    block
    for page in ("README.md", "docs/api.md", "docs/operations.md")
    for block in re.findall(
        r"^```sh\n((?:curl|printf) .*?)\n```\n+(?:[^\n]+:\n+```json\n(.*?)\n```)?",
        (ROOT / page).read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
]


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("command", "expected"), CURL, ids=[command.split("\n")[0][:60] for command, _ in CURL])
def test_curl_lines_of_the_documents_work(default_service: ServiceProcess, command: str, expected: str) -> None:
    local = command.replace("localhost:8080", f"127.0.0.1:{default_service.port}").replace(
        "curl ", "curl --fail-with-body ", 1
    )
    local = local.replace("models/trained", str(DEFAULT))  # the one that is there
    script = f"ADMIN_KEY={ADMIN_KEY}; {local}"
    ran = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for label in re.findall(r'"label": ?"(\w+)"', expected)[:1]:
        assert f'"label":"{label}"' in ran.stdout


def test_the_documents_have_curl_lines() -> None:
    assert len(CURL) == 8 and CURL[0][1]
