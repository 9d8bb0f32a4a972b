"""The service that the client's tests ask."""

from collections.abc import Iterator

import pytest

from tests.support.live_service import LiveService, live_service


@pytest.fixture(scope="module")
def service() -> Iterator[LiveService]:
    """The app over the fake engine, on a socket."""
    with live_service() as running:
        yield running
