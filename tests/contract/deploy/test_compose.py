"""docker-compose.yml says what the images and the documents say."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.support import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["services"]
    return found


def test_both_run_without_privileges_on_a_read_only_root_within_bounds(services: dict[str, Any]) -> None:
    assert set(services) == {"service", "page"}
    for name, service in services.items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["user"].split(":")[0] != "0" and service["mem_limit"] and service["pids_limit"], name
        assert service["healthcheck"]["test"][0] == "CMD" and service["tmpfs"], name


def test_what_is_built_is_a_target_of_the_dockerfile(services: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert {service["build"]["target"] for service in services.values()} <= targets


def test_health_checks_are_those_of_the_images(services: dict[str, Any]) -> None:
    checks = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    in_images = {tuple(yaml.safe_load(check)) for check in checks}
    assert {tuple(service["healthcheck"]["test"][1:]) for service in services.values()} == in_images


def test_stop_leaves_time_to_drain(services: dict[str, Any]) -> None:
    from service.http.server import CLOSE_S
    from service.settings import Settings

    drain_s = Settings.model_fields["drain_s"].default
    assert float(services["service"]["stop_grace_period"].removesuffix("s")) > drain_s + CLOSE_S


def test_both_ports_are_published_to_this_machine_only(services: dict[str, Any]) -> None:
    for name, service in services.items():
        [port] = service["ports"]
        assert port.startswith("${PUBLISH_ADDRESS:-127.0.0.1}:"), name


def test_a_variable_that_is_not_set_here_is_not_set_in_a_container(services: dict[str, Any]) -> None:
    assert services["service"]["environment"]["SERVICE_API_KEYS"] is None
    assert services["page"]["environment"]["CLASSIFIER_API_KEY"] is None


def test_the_page_has_room_for_the_files_of_four_visitors(services: dict[str, Any]) -> None:
    """A file takes 6.4 times its size of memory, and twice its size in /tmp, which is memory, too."""
    settings = tomllib.loads((ROOT / "client" / "page" / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    upload_mb, page_mb = settings["server"]["maxUploadSize"], 112
    [tmp_mb] = re.findall(r"size=(\d+)m", services["page"]["tmpfs"][0])
    [memory_gb] = re.findall(r"(\d+)g", services["page"]["mem_limit"])
    assert 4 * 2 * upload_mb <= int(tmp_mb)
    assert page_mb + 4 * (6.4 + 2) * upload_mb <= 1024 * int(memory_gb)
