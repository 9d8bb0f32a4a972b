"""Every environment variable of the service, typed and documented. No other module reads the environment.

docs/settings.md is generated from these fields (`make openapi`).
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from classifier import Precision

PREFIX = "SERVICE_"
SAGEMAKER_PORT = "SAGEMAKER_BIND_TO_PORT"
SAGEMAKER_ACCEPT = "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
SAGEMAKER_MODEL = Path("/opt/ml/model")
MIN_KEY_CHARS = 16
NO_KEYS = "none"
"""Value of a variable for keys that openly declines them; one that names no key is refused."""
MAY_BE_EMPTY = "AUTOTUNE_DIR"
DEFAULT_MODEL = Path("models/default")


class SettingsError(Exception):
    """One or more variables are wrong; the message names each with its value."""


def _cache_directory() -> str:
    """Return the directory that the XDG Base Directory Specification gives for caches, empty if there is none."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(parent, "gpt2-classifier") if os.path.isabs(parent) else ""


class Settings(BaseSettings):
    """The service's settings; `/info` shows the limits among them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; containers set 0.0.0.0.")
    port: int = Field(
        8080,
        ge=0,
        le=65535,
        validation_alias=AliasChoices(SAGEMAKER_PORT, "SERVICE_PORT"),
        description="Port to listen on; 0 takes a free one. SAGEMAKER_BIND_TO_PORT overrides it.",
    )
    model_dir: Path = Field(
        default_factory=lambda: SAGEMAKER_MODEL if (SAGEMAKER_MODEL / "manifest.json").is_file() else DEFAULT_MODEL,
        description="Directory of the artifact; /opt/ml/model by default if it holds one, else models/default.",
    )
    precision: Literal["auto", Precision] = Field(
        "auto",
        description="Precision of matrix products; auto takes the fastest that agrees with float32, measured at start.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device that the model runs on. auto takes a GPU if there is one."
    )
    lanes: int = Field(
        0, ge=0, le=64, description="Number of batches that the model runs at the same time; 0: measured at start."
    )
    threads: int = Field(0, ge=0, le=1024, description="Threads of each lane of the model; 0: measured at start.")
    autotune_dir: str = Field(
        default_factory=_cache_directory,
        description="Directory for the file that keeps what was measured at start, so that the next start need not "
        "measure it; empty: none. By default gpt2-classifier in $XDG_CACHE_HOME or ~/.cache.",
    )
    api_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys. Requests except health checks need one; not set, or none: the service is "
        "open.",
    )
    admin_keys: SecretStr = Field(
        SecretStr(""),
        description="Comma-separated keys for /admin; not set, or none: /admin is closed and only SIGHUP reloads.",
    )
    reload_samples: int = Field(
        64,
        ge=0,
        le=4096,
        description="Number of recent texts kept in memory to compare a new model with the running one; 0 keeps none.",
    )
    max_body_bytes: int = Field(6_000_000, ge=1_000, description="Largest body of a request, in bytes.")
    max_text_chars: int = Field(200_000, ge=1, description="Longest text, in characters.")
    max_texts: int = Field(256, ge=1, description="Maximum number of texts in one request.")
    max_requests: int = Field(
        1024,
        ge=1,
        description="Maximum number of POST requests that are read and not answered yet, without streams.",
    )
    max_streams: int = Field(256, ge=1, description="Maximum number of streams at /batch at the same time.")
    max_held_bytes: int = Field(
        100_000_000,
        ge=1,
        description="Bytes that all bodies and answers may hold in memory; the first 65,536 of each do not count.",
    )
    max_queue_items: int = Field(4096, ge=1, description="Maximum number of windows that are queued or being computed.")
    max_queue_tokens: int = Field(
        1_000_000, ge=1, description="Maximum number of tokens that are queued or being computed."
    )
    max_batch_tokens: int = Field(
        0,
        ge=0,
        le=262_144,
        description="Most tokens in one batch; 0 measures at start and takes the smallest batch that gives full speed.",
    )
    cache_items: int = Field(
        0, ge=0, description="Number of windows whose logits are cached for equal windows; 0 disables the cache."
    )
    stuck_s: float = Field(
        120.0,
        gt=0,
        description="Seconds after which a running forward or tokenising counts as stuck; the process then ends after "
        "another 10 s.",
    )
    default_timeout_ms: int = Field(
        30_000,
        ge=1,
        description="Deadline in milliseconds of a request that names none; in a stream, of every 64 lines.",
    )
    max_timeout_ms: int = Field(
        55_000,
        ge=1,
        description="Longest deadline that a request may name, in milliseconds; SageMaker disconnects after 60 s.",
    )
    drain_s: float = Field(
        20.0,
        ge=0,
        le=25,
        description="Seconds that accepted work has after SIGTERM; SageMaker kills the process after 30.",
    )
    default_accept: str = Field(
        "",
        validation_alias=AliasChoices(SAGEMAKER_ACCEPT, "SERVICE_DEFAULT_ACCEPT"),
        description="Accept header assumed where a caller of /invocations sends none. "
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT overrides it.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return the keys that allow every path but /admin."""
        return _keys(self.api_keys)

    @property
    def keys_of_admins(self) -> tuple[bytes, ...]:
        """Return the keys that allow /admin."""
        return _keys(self.admin_keys)

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        for name, secret in (("API", self.api_keys), ("ADMIN", self.admin_keys)):
            keys = _keys(secret)
            if not secret.get_secret_value().isascii():  # clients encode others in different ways
                raise ValueError(f"SERVICE_{name}_KEYS has a character that is not ASCII")
            if not keys and secret.get_secret_value() not in ("", NO_KEYS):
                raise ValueError(f"SERVICE_{name}_KEYS names no key; {NO_KEYS} declines keys openly")
            short = [len(key) for key in keys if len(key) < MIN_KEY_CHARS]
            if short:  # never the key itself
                raise ValueError(
                    f"SERVICE_{name}_KEYS has a key of {short[0]} characters, {MIN_KEY_CHARS} are the least"
                )
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(
                f"SERVICE_DEFAULT_TIMEOUT_MS={self.default_timeout_ms} is above "
                f"SERVICE_MAX_TIMEOUT_MS={self.max_timeout_ms}"
            )
        return self


def _keys(secret: SecretStr) -> tuple[bytes, ...]:
    text = secret.get_secret_value()
    return tuple(key.encode() for key in map(str.strip, text.split(",")) if key) if text != NO_KEYS else ()


def load_settings() -> Settings:
    """Return the settings from the environment.

    Raises:
        SettingsError: naming every wrong variable and its value, and every variable that is misspelt or empty.
    """
    problems = _misspelt_or_empty(os.environ)
    try:
        settings = Settings()
    except ValidationError as exc:
        for error in exc.errors():
            message = str(error["msg"]).removeprefix("Value error, ")
            if not error["loc"]:
                problems[""] = message
                continue
            name = str(error["loc"][-1])
            if name == SAGEMAKER_PORT and name not in os.environ:  # pydantic names an alias, not the one that was set
                name = "port"
            shown = name if name.isupper() else f"{PREFIX}{name.upper()}"
            problems.setdefault(shown, f"{shown}={error['input']!r}: {message}")
    if problems:
        raise SettingsError("; ".join(problems.values()))
    return settings


def _misspelt_or_empty(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a line for each variable that has the prefix but is no setting, or is set but empty.

    Kubernetes sets `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_PORT` and others for each Service X of a namespace. They are
    passed over, because the name of such a Service may begin with "service".
    """
    known = [name.upper() for name in Settings.model_fields]
    services = [name.removesuffix("_SERVICE_HOST") for name in environment if name.endswith("_SERVICE_HOST")]
    links = tuple(f"{service}_{kind}" for service in services for kind in ("SERVICE_", "PORT"))
    problems = {}
    for name, value in sorted(environment.items()):
        prefix, setting = name[: len(PREFIX)].upper(), name[len(PREFIX) :].upper()  # pydantic ignores the case, too
        if prefix != PREFIX or name.startswith(links):
            continue
        if setting not in known:
            near = get_close_matches(setting, known, n=1)
            hint = f"is {PREFIX}{near[0]} meant?" if near else "docs/settings.md lists all"
            problems[PREFIX + setting] = f"{name} is not a setting of the service; {hint}"
        elif setting != MAY_BE_EMPTY and not value.strip():
            problems[PREFIX + setting] = f"{name}={value!r}: it is set but empty; unset it for the default"
    return problems
