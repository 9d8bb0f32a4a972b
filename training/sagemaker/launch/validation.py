"""Check requests against botocore's own description of the API, before anything is sent and without AWS.

botocore checks names, types, required fields and minima. This module adds what AWS checks and botocore does not:
maxima, enumerations, patterns, and constraints over several fields, as far as an option of the commands can break them.
All problems are reported at once. The constraints are from the API's reference and the developer guide:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_Operations.html
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, StructureShape
from botocore.validate import ParamValidator

from training.sagemaker.errors import RequestError
from training.sagemaker.launch.requests import ApiRequest

SHOWN_CHARACTERS = 80
UNITS = {"list": " entries", "map": " entries", "string": " characters", "blob": " bytes"}
_TRANSLATED = {r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)": r"[\w\s.:/=+\-@]*"}
"""Keys and values of tags: the one pattern in Java's own syntax that options can break."""
PYTHON_TYPES: dict[str, Any] = {
    "structure": Mapping, "map": Mapping, "list": (list, tuple), "string": str, "blob": bytes, "boolean": bool,
    "integer": int, "long": int, "float": (int, float), "double": (int, float),
}  # fmt: skip
"""Python's types for the types of botocore's shapes."""


@dataclass(frozen=True)
class Rule:
    """A constraint over fields of one operation."""

    service: str
    operation: str
    fields: str
    """Paths separated by spaces, into a list to its first entry; problems are reported at the first path. The rule is
    skipped where a field is absent or has the wrong type, unless its path ends with `?`: then its value is None."""
    problem: Callable[..., str | bool | None]
    """Takes the fields' values and returns what is wrong, or something false."""

    def problems(self, shape: Any, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Yield `path: message` if a request with botocore's shape breaks the rule.

        Raises KeyError if the API has no such field, so that the rule itself is wrong.
        """
        paths = self.fields.split()
        values = [_find(shape, parameters, path.rstrip("?")) for path in paths]
        if all(value is not None or path.endswith("?") for value, path in zip(values, paths, strict=True)):
            message = self.problem(*values)
            if message:
                yield f"{paths[0].rstrip('?')}: {message}"


def _find(shape: Any, value: Any, path: str) -> Any:
    for name in path.split("."):
        if shape.type_name == "list":
            shape, value = shape.member, value[0] if isinstance(value, list) and value else None
        shape, value = shape.members[name], value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, PYTHON_TYPES[shape.type_name]) else None


def _fast_file(channels: list[dict[str, Any]], mode: str) -> str:
    uris = [channel.get("DataSource", {}).get("S3DataSource", {}).get("S3Uri", "/") for channel in channels]
    partial = ", ".join(uri for uri in uris if mode == "FastFile" and not uri.endswith("/"))
    return f"FastFile needs prefixes that end with /, not {partial}" if partial else ""


def _too_large(environment: Mapping[str, Any]) -> str:
    size = sum(len(key.encode()) + len(str(value).encode()) for key, value in environment.items())
    return f"has {size} bytes, the maximum is 32768" if size > 32_768 else ""


def _step_size(low: int) -> Callable[[int], str]:
    return lambda size: "" if low <= size <= 50 else f"is {size} %, allowed: {low} to 50"


_SPOT, _WARM_POOL = "EnableManagedSpotTraining", "ResourceConfig.KeepAlivePeriodInSeconds"
_MAX_WAIT, _MAX_RUN = "StoppingCondition.MaxWaitTimeInSeconds", "StoppingCondition.MaxRuntimeInSeconds"
_SERVERLESS = "ProductionVariants.ServerlessConfig"
_ROUTING = "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration"

RULES = (
    Rule("sagemaker", "CreateTrainingJob", f"{_MAX_WAIT}? {_SPOT}",
         lambda wait, spot: spot and wait is None and "is required for spot instances"),
    Rule("sagemaker", "CreateTrainingJob", f"{_MAX_WAIT} {_SPOT}?",
         lambda wait, spot: not spot and "is only for spot instances"),
    Rule("sagemaker", "CreateTrainingJob", f"{_MAX_WAIT} {_MAX_RUN}",
         lambda wait, run: wait < run and f"{wait} is less than MaxRuntimeInSeconds, {run}"),
    Rule("sagemaker", "CreateTrainingJob", f"{_WARM_POOL} {_SPOT}",
         lambda keep, spot: keep and spot and "warm pools take no spot instances"),
    Rule("sagemaker", "CreateTrainingJob", "InputDataConfig AlgorithmSpecification.TrainingInputMode", _fast_file),
    Rule("sagemaker", "CreateModel", "PrimaryContainer.Environment", _too_large),
    Rule("sagemaker", "CreateModel", "PrimaryContainer.ModelDataUrl",
         lambda url: not url.endswith(".tar.gz") and f"{url!r} must name a .tar.gz"),
    Rule("sagemaker", "CreateEndpointConfig", f"{_SERVERLESS}.MemorySizeInMB",
         lambda memory: memory % 1024 and f"is {memory}, must be a multiple of 1024"),
    Rule("sagemaker", "CreateEndpointConfig", f"{_SERVERLESS}.ProvisionedConcurrency {_SERVERLESS}.MaxConcurrency",
         lambda provisioned, most: provisioned > most and f"{provisioned} is more than MaxConcurrency, {most}"),
    Rule("sagemaker", "CreateTransformJob", "MaxPayloadInMB MaxConcurrentTransforms",
         lambda megabytes, count: megabytes * count > 100
         and f"{megabytes} MB x {count} concurrent transforms is above 100 MB"),
    Rule("sagemaker", "CreateTransformJob",
         "TransformOutput.Accept TransformInput.ContentType DataProcessing.JoinSource",
         lambda accept, given, _: accept != given and f"a join needs the same media type as ContentType, {given}"),
    Rule("sagemaker", "UpdateEndpoint", f"{_ROUTING}.CanarySize.Value", _step_size(1)),
    Rule("sagemaker", "UpdateEndpoint", f"{_ROUTING}.LinearStepSize.Value", _step_size(10)),
    Rule("application-autoscaling", "RegisterScalableTarget", "MinCapacity MaxCapacity",
         lambda low, high: low > high and f"{low} is more than MaxCapacity, {high}"),
)  # fmt: skip


def check(requests: Sequence[ApiRequest]) -> None:
    """Check all requests. Raises RequestError with every problem of every request."""
    problems = [problem for request in requests for problem in problems_of(request)]
    if problems:
        raise RequestError(problems)


def problems_of(request: ApiRequest) -> list[str]:
    """Return everything that AWS would refuse in one request, as `Operation: path: message`."""
    shape = input_shape(request.service, request.operation)
    found = ParamValidator().validate(request.parameters, shape).generate_report().splitlines()
    found += _limits(shape, request.parameters, "")
    for rule in RULES:
        if (rule.service, rule.operation) == (request.service, request.operation):
            found += rule.problems(shape, request.parameters)
    return [f"{request.operation}: {problem}" for problem in found]


@functools.cache
def input_shape(service: str, operation: str) -> Any:
    """Return botocore's description of a request."""
    return _session().get_service_model(service).operation_model(operation).input_shape


@functools.cache
def _session() -> botocore.session.Session:
    return botocore.session.Session()


def _limits(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Yield `path: message` for each maximum, enumeration and pattern that a value breaks."""
    if not isinstance(value, PYTHON_TYPES.get(shape.type_name, ())):
        return  # botocore reports the wrong type
    if isinstance(shape, StructureShape):
        for name in shape.members:
            if name in value:
                yield from _limits(shape.members[name], value[name], f"{path}.{name}".lstrip("."))
        return
    if isinstance(shape, ListShape):
        for i, item in enumerate(value):
            yield from _limits(shape.member, item, f"{path}[{i}]")
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            yield from _limits(shape.key, key, f"{path}[{_short(key)}] (the key)")
            yield from _limits(shape.value, item, f"{path}[{_short(key)}]")
    size, unit = (len(value), UNITS[shape.type_name]) if shape.type_name in UNITS else (value, "")
    if size > shape.metadata.get("max", float("inf")):
        yield f"{path}: {'has' if unit else 'is'} {size}{unit}, the maximum is {shape.metadata['max']}"
    if shape.metadata.get("enum") and value not in shape.metadata["enum"]:
        known = shape.metadata["enum"]
        near = [name for name in known if name.split(".")[:2] == value.split(".")[:2]] or known  # as ml.g5.huge
        names = ", ".join(near[:20]) + (f" and {len(near) - 20} more" if len(near) > 20 else "")
        yield f"{path}: {_short(value)} is not one of {names}"
    pattern = shape.metadata.get("pattern", "")
    compiled = _compiled(_TRANSLATED.get(pattern, pattern))
    if pattern and compiled is not None and not compiled.fullmatch(value):
        yield f"{path}: {_short(value)} does not match {pattern}"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Return a pattern of the API, or None for the few in Java's own syntax, which only AWS checks."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "...")
