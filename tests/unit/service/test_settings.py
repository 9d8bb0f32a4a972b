from pathlib import Path

import pytest

from service import settings as module
from service.settings import Settings, SettingsError, load_settings, unknown_variables


def test_defaults_suit_a_laptop() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.model_dir) == ("127.0.0.1", 8080, Path("models/default"))


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "9000")
    monkeypatch.setenv("SERVICE_MODEL_DIR", "/tmp/m")
    settings = load_settings()
    assert (settings.port, settings.model_dir) == (9000, Path("/tmp/m"))


def test_sagemakers_port_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "9000")
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9001")
    assert load_settings().port == 9001


def test_sagemakers_model_is_taken_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.json").touch()
    monkeypatch.setattr(module, "SAGEMAKER_MODEL", tmp_path)
    assert Settings().model_dir == tmp_path


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PORT": "http", "MAX_TEXTS": "0", "LOG_LEVEL": "loud"}, ["PORT='http'", "MAX_TEXTS='0'", "LOG_LEVEL='loud'"]),
        ({"HOST": ""}, ["HOST=''"]),  # it would listen everywhere
        ({"DRAIN_S": "26"}, ["DRAIN_S='26'"]),  # SageMaker kills what drains beyond 25 s
        ({"MAX_BATCH_TOKENS": "1000000"}, ["MAX_BATCH_TOKENS='1000000'"]),  # its warm-up would take all memory
        (
            {"DEFAULT_TIMEOUT_MS": "56000"},
            ["DEFAULT_TIMEOUT_MS=56000 is above SERVICE_MAX_TIMEOUT_MS=55000"],
        ),
    ],
)
def test_every_wrong_variable_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SERVICE_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert all(f"SERVICE_{part}" in str(caught.value) for part in shown)
    assert "Value error" not in str(caught.value), "pydantic's own words"


def test_misspelt_variable_is_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SERVICE_PROT", "9000")
    load_settings()
    assert "SERVICE_PROT is set, but the service has no such setting" in caplog.text
    assert unknown_variables(["SERVICE_PORT", "PATH"]) == []


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
