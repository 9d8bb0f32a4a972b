"""The URL of the real service over the default model, and two texts whose labels are plain."""

import pytest

from tests.support.service_process import ServiceProcess

BUSINESS = "Shares in the bank rose by three per cent after it reported a record profit for the last quarter."
SPORT = "The striker scored twice as the home side won the cup final at the weekend."


@pytest.fixture(scope="package")
def url(default_service: ServiceProcess) -> str:
    return default_service.url
