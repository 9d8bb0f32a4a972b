"""What the environment says: the only place of the client that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

URL = "CLASSIFIER_URL"
API_KEY = "CLASSIFIER_API_KEY"
FIXED = "CLASSIFIER_FIXED"
DEFAULT_URL = "http://localhost:8080"


@dataclass(frozen=True)
class Settings:
    """Where the service is."""

    url: str = DEFAULT_URL
    """http(s)://HOST[:PORT][/PREFIX], or sagemaker://ENDPOINT[?region=REGION]; `CLASSIFIER_URL`."""
    api_key: str = field(default="", repr=False)
    """One of the service's SERVICE_API_KEYS; "": none; `CLASSIFIER_API_KEY`."""
    fixed: bool = False
    """Visitors of the page may not ask another service through it; `CLASSIFIER_FIXED`, anything but 0 or nothing."""


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment; what is not set or empty has its default."""
    values = os.environ if environment is None else environment
    return Settings(
        values.get(URL, "").strip() or DEFAULT_URL,
        values.get(API_KEY, "").strip(),
        values.get(FIXED, "").strip() not in ("", "0"),
    )
