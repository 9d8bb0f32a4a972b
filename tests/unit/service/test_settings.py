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


def test_every_wrong_variable_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PORT", "http")
    monkeypatch.setenv("SERVICE_MAX_TEXTS", "0")
    monkeypatch.setenv("SERVICE_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for shown in ("SERVICE_PORT='http'", "SERVICE_MAX_TEXTS='0'", "SERVICE_LOG_LEVEL='loud'"):
        assert shown in str(caught.value)


def test_contradiction_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_DEFAULT_TIMEOUT_MS", "56000")
    with pytest.raises(SettingsError, match="SERVICE_DEFAULT_TIMEOUT_MS=56000 is above SERVICE_MAX_TIMEOUT_MS=55000"):
        load_settings()


def test_misspelt_variable_is_warned_about(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SERVICE_PROT", "9000")
    load_settings()
    assert "SERVICE_PROT is set, but the service has no such setting" in caplog.text
    assert unknown_variables(["SERVICE_PORT", "PATH"]) == []


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(("name", "value"), [("HOST", ""), ("DRAIN_S", "26"), ("MAX_BATCH_TOKENS", "1000000")])
def test_values_that_would_surprise_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An empty host listens everywhere; a drain beyond 25 s is killed by SageMaker; such a warm-up eats all memory."""
    monkeypatch.setenv(f"SERVICE_{name}", value)
    with pytest.raises(SettingsError, match=f"SERVICE_{name}='{value}'"):
        load_settings()
