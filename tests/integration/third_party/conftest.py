"""The real service over the default model, one process for all of these modules."""

from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.support.service_process import service_process

BUSINESS = "Shares in the bank rose by three per cent after it reported a record profit for the last quarter."
SPORT = "The striker scored twice as the home side won the cup final at the weekend."


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    settings = {"SERVICE_PRECISION": "float32", "SERVICE_MAX_BATCH_TOKENS": "512"}  # nothing to measure at start
    with service_process(ROOT / "models" / "default", **settings) as service:
        service.wait_for_log("ready")
        yield service.url
        assert service.stop() == 0
