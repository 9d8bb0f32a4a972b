"""Fixtures of all tests. What is heavy, torch first of all, is imported by the fixtures that need it."""

import csv
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT
from tests.support.texts import news_rows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from classifier.artifact import Artifact
    from classifier.model import GPT2Classifier
    from tests.support.app import Service, ServiceFactory
    from tests.support.fake_engine import FakeEngine

SETTINGS = ("SERVICE_", "CLASSIFIER_", "SAGEMAKER_", "SM_", "OTEL_")
"""Prefixes of the variables that the project reads."""

for name in [name for name in os.environ if name.startswith(SETTINGS)]:
    del os.environ[name]  # no setting of the machine reaches a test, its fixtures or its processes

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C for what it runs in the background, and children inherit that: theirs must work.
    signal.signal(signal.SIGINT, signal.default_int_handler)


PACKAGES = {"chromium": "chromium", "curl": "curl", "prometheus": "prometheus", "promtool": "prometheus"}
"""Debian packages of the programs that a test may need."""

LONG = ("integration", "training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that parallel workers end at about the same time."""
    items.sort(key=lambda item: not any(part in LONG for part in item.path.parts))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose program is missing; one place, so that the summary has one line for each program."""
    for mark in item.iter_markers("needs"):
        [program] = mark.args
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install {PACKAGES[program]}")


@pytest.fixture(autouse=True)
def no_settings_left() -> Iterator[None]:
    """Fail if a test leaves a variable of the project set."""
    yield
    left = [name for name in os.environ if name.startswith(SETTINGS)]
    for name in left:
        del os.environ[name]
    assert not left, "the test leaves these variables set"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Give torch its one thread back: an engine that a test loads takes all CPUs for the whole process."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_model import write_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    write_tokenizer(path)
    return path


@pytest.fixture
def tokenizer(tokenizer_path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer_path))


@pytest.fixture(scope="session")
def base_model(tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny GPT-2 language model."""
    from tests.support.tiny_model import write_base_model

    directory = tmp_path_factory.mktemp("base")
    write_base_model(directory, tokenizer_path)
    return directory


@pytest.fixture(scope="session")
def model(base_model: Path) -> "GPT2Classifier":
    from tests.support.tiny_model import tiny_classifier

    return tiny_classifier(base_model)


@pytest.fixture(scope="session")
def artifact(model: "GPT2Classifier", tokenizer_path: Path, tmp_path_factory: pytest.TempPathFactory) -> "Artifact":
    """An artifact that no test may change; `artifact_copy` is for those that do."""
    from tokenizers import Tokenizer

    from tests.support.tiny_model import artifact_of

    return artifact_of(model, Tokenizer.from_file(str(tokenizer_path)), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def artifact_copy(artifact: "Artifact", tmp_path: Path) -> "Artifact":
    from classifier.artifact import read_artifact

    return read_artifact(shutil.copytree(artifact.directory, tmp_path / "copy"))


@pytest.fixture
def news_csv(tmp_path: Path) -> Path:
    """A file of 60 short rows with three labels; no two rows are alike."""
    path = tmp_path / "news.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "text"])
        writer.writerows((row["label"], row["text"]) for row in news_rows(60))
    return path


@pytest.fixture
def engine() -> "FakeEngine":
    from tests.support.fake_engine import FakeEngine

    return FakeEngine()


@pytest.fixture
def service_with(engine: "FakeEngine") -> "ServiceFactory":
    """`async with service_with(max_texts=2) as service:` is a ready service with these settings."""
    from tests.support.app import service_factory

    return service_factory(engine)


@pytest.fixture
async def service(service_with: "ServiceFactory") -> AsyncIterator["Service"]:
    """A ready service over the fake engine with the default settings."""
    async with service_with() as service:
        yield service


@pytest.fixture
def shared() -> Path:
    """The data directory beside the checkout, where there is one."""
    directory = ROOT.parent / "shared"
    if not (directory / "data").is_dir():
        pytest.skip("needs the data that is not part of the repository (../shared/data)")
    return directory
