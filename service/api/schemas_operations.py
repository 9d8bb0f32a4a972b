"""Wire models of `service.api.operations`."""

from typing import Literal

from pydantic import Field

from service.api.schemas_base import Wire
from service.inference.engine import EngineInfo


class Alive(Wire):
    status: Literal["alive"] = "alive"


class Ready(Wire):
    status: Literal["loading", "ready", "draining", "failed", "unhealthy"]
    stage: str | None = Field(None, description="while loading: what it is about now")


class Root(Wire):
    """Where to go on."""

    service: str = Field(description="the service's release")
    documentation: str
    contract: str
    information: str
    readiness: str


class LimitsBody(Wire):
    """The settings of the same names, and what the model says."""

    max_body_bytes: int
    max_text_chars: int
    max_texts: int
    max_requests: int
    max_queue_items: int
    max_queue_tokens: int
    default_timeout_ms: int
    max_timeout_ms: int
    max_batch_tokens: int = Field(description="tokens computed at once")


class Info(Wire):
    """What is served, and its limits."""

    service: str = Field(description="the service's release")
    model: EngineInfo
    limits: LimitsBody
