"""`/docs`, and what a browser may run on it."""

import re

import pytest

from tests.support.app import Service

pytestmark = pytest.mark.anyio


async def test_a_browser_runs_only_files_of_one_version_whose_hashes_stand_in_the_page(service: Service) -> None:
    answer = await service.client.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    foreign = [tag for tag in re.findall(r"<[^>]+>", answer.text) if "//" in tag]
    assert len(foreign) == 2
    for tag in foreign:
        once = r'="https://[^"]+@\d+\.\d+\.\d+/[^"]+" integrity="sha384-[\w+/]{64}" crossorigin="anonymous"'
        assert re.search(once, tag), tag
    assert 'href="openapi.json"' in answer.text, "for those without JavaScript or the internet"
    contract = await service.client.get("/openapi.json")
    assert contract.status_code == 200 and contract.json() == service.app.openapi()
