"""Wire models of `/admin`."""

from typing import Annotated

from pydantic import ConfigDict, Field

from service.api.schemas import ModelBody
from service.api.schemas_base import RequestBody, WireModel


class ReloadRequest(RequestBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"model_dir": "models/trained", "max_flip_rate": 0.1}]})

    model_dir: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] | None = Field(
        None, description="the artifact, a directory of the service's machine; if not given, SERVICE_MODEL_DIR"
    )
    max_flip_rate: float = Field(
        0.2, ge=0, le=1, description="share of recent texts that may get another label, if there are 20 of them"
    )
    other_labels: Annotated[bool, Field(strict=True)] = Field(False, description="the new model may have other labels")


class Compared(WireModel):
    """Both models on recent texts."""

    texts: int = Field(ge=0, description="texts that both answered; SERVICE_RELOAD_SAMPLES are kept")
    flip_rate: float = Field(ge=0, le=1, description="share of them with another label")
    mean_change: float = Field(ge=0, le=1, description="mean absolute change of their label's probability")


class ReloadResponse(WireModel):
    previous: ModelBody
    model: ModelBody = Field(description="what is served now")
    compared: Compared
    seconds: float
