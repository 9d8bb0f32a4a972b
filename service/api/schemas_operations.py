"""Wire models of `service.api.operations`."""

from typing import Literal

from pydantic import Field

from service.api.schemas_base import WireModel
from service.inference.engine import EngineInfo


class Alive(WireModel):
    status: Literal["alive"] = "alive"


class Ready(WireModel):
    status: Literal["loading", "ready", "draining", "failed", "unhealthy"]
    stage: str | None = Field(None, description="while loading: what it is about now")


class Root(WireModel):
    """Where to go on."""

    service: str = Field(description="the service's release")
    documentation: str
    contract: str
    information: str
    readiness: str


class LimitsBody(WireModel):
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


class InfoBody(WireModel):
    """What is served, and its limits."""

    service: str = Field(description="the service's release")
    model: EngineInfo
    limits: LimitsBody
