from pathlib import Path

import pytest

from service import settings as module
from service.settings import Settings, SettingsError, load_settings


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
        ({"HOST": ""}, ["HOST='': it is set but empty"]),  # it would listen everywhere
        ({"MODEL_DIR": "", "PORT": " "}, ["MODEL_DIR='': it is set but empty", "PORT=' ': it is set but empty"]),
        ({"API_KEYS": "", "ADMIN_KEYS": ""}, ["API_KEYS='': it is set but empty", "ADMIN_KEYS='': it is set but"]),
        ({"API_KEYS": ","}, ["API_KEYS names no key; none declines keys openly"]),
        ({"ADMIN_KEYS": " , "}, ["ADMIN_KEYS names no key"]),
        ({"API_KEYS": "none,key-of-16-letters"}, ["API_KEYS has a key of 4 characters"]),
        ({"API_KEYS": "schlüssel-mit-umlaut"}, ["API_KEYS has a character that is not ASCII"]),
        ({"API_KEY": "key-of-16-letters"}, ["API_KEY is not a setting of the service; is SERVICE_API_KEYS meant?"]),
        ({"PROT": "9000", "PORT": "http"}, ["PROT is not a setting", "PORT='http'"]),
        ({"WELCOME": "hi"}, ["WELCOME is not a setting of the service; docs/settings.md lists all"]),
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
    assert str(caught.value).count("SERVICE_HOST") <= 1
    assert "Value error" not in str(caught.value), "pydantic's own words"


def test_a_name_in_lower_case_is_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("service_max_texts", "7")
    assert load_settings().max_texts == 7
    monkeypatch.setenv("service_api_key", "key-of-16-letters")
    with pytest.raises(SettingsError, match="service_api_key is not a setting"):
        load_settings()
    monkeypatch.undo()


def test_keys_are_declined_openly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEYS", "none")
    assert load_settings().keys == ()


def test_empty_means_no_file_of_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_AUTOTUNE_DIR", "")
    assert load_settings().autotune_dir == ""


@pytest.mark.parametrize("service", ["SERVICE_A", "SERVICE"])
def test_variables_that_kubernetes_sets_for_a_service_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """As https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables lists them."""
    address = "10.0.0.11"
    monkeypatch.setenv(f"{service}_PORT", f"tcp://{address}:6379")
    for name, value in {
        "SERVICE_HOST": address,
        "SERVICE_PORT": "6379",
        "SERVICE_PORT_HTTP": "6379",
        "PORT_6379_TCP": f"tcp://{address}:6379",
        "PORT_6379_TCP_PROTO": "tcp",
        "PORT_6379_TCP_PORT": "6379",
        "PORT_6379_TCP_ADDR": address,
    }.items():
        monkeypatch.setenv(f"{service}_{name}", value)
    if service == "SERVICE":  # SERVICE_PORT is a setting
        with pytest.raises(SettingsError) as caught:
            load_settings()
        assert str(caught.value).count("SERVICE_") == 1 and "SERVICE_PORT='tcp://" in str(caught.value)
        monkeypatch.setenv("SERVICE_PORT", "9000")
    assert load_settings().port == (9000 if service == "SERVICE" else 8080)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
