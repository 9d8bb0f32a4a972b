"""The real service over the default model: one process for all tests that only send requests."""

from collections.abc import Iterator

import pytest

from tests.support import ROOT
from tests.support.service_process import PATIENT, ServiceProcess, service_process

ADMIN_KEY = "0123456789abcdef"


@pytest.fixture(scope="session")
def default_service() -> Iterator[ServiceProcess]:
    with service_process(ROOT / "models" / "default", SERVICE_ADMIN_KEYS=ADMIN_KEY, **PATIENT) as service:
        yield service
        assert service.stop() == 0
