"""What a command asks of AWS, as data: made without AWS, checked, printed by a dry run, then sent in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request to AWS."""

    service: str
    """As boto3 names its client, as `sagemaker-runtime`."""
    operation: str
    """As the API names it, as `CreateEndpoint`."""
    request: Mapping[str, Any]
    """A string `${Name}` in it stands for the field `Name` of the last answer that had one."""

    def shown(self) -> dict[str, Any]:
        return {"service": self.service, "operation": self.operation, "request": _plain(self.request)}


@dataclass(frozen=True)
class InService:
    """Wait until an endpoint is in service with a configuration; what follows needs it."""

    endpoint: str
    config: str

    def shown(self) -> dict[str, Any]:
        return {"wait": f"endpoint {self.endpoint} is InService with {self.config}"}


Step = Call | InService


def filled(value: Any, answers: Mapping[str, Any]) -> Any:
    """`value` with each string `${Name}` replaced by `answers[Name]`; what has no answer stays."""
    if isinstance(value, Mapping):
        return {key: filled(item, answers) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, answers) for item in value]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return answers.get(value[2:-1], value)
    return value


def without_empty(**fields: Any) -> dict[str, Any]:
    """The fields that say something: not None, not an empty string, list or mapping. 0 and False stay."""
    return {key: value for key, value in fields.items() if value is not None and value not in ("", [], {}, ())}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _plain(value: Any) -> Any:
    """As JSON has it: bytes as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
