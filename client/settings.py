"""The client's settings, read from the environment; no other module of the client reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

URL = "CLASSIFIER_URL"
API_KEY = "CLASSIFIER_API_KEY"
FIXED = "CLASSIFIER_FIXED"
DEFAULT_URL = "http://localhost:8080"


@dataclass(frozen=True)
class Settings:
    """Where the service is, and how the page may reach it."""

    url: str = DEFAULT_URL
    """http(s)://HOST[:PORT][/PREFIX], or sagemaker://ENDPOINT[?region=REGION]; `CLASSIFIER_URL`."""
    api_key: str = field(default="", repr=False)
    """One of the service's SERVICE_API_KEYS, "" for none; `CLASSIFIER_API_KEY`."""
    fixed: bool = False
    """Visitors of the page may not ask another service through it; `CLASSIFIER_FIXED`, anything but 0 or nothing."""


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment; a variable that is unset or empty has its default."""
    values = os.environ if environment is None else environment
    url, api_key, fixed = (values.get(name, "").strip() for name in (URL, API_KEY, FIXED))
    return Settings(url or DEFAULT_URL, api_key, fixed not in ("", "0"))
