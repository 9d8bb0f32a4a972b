"""What AWS refuses although each field by itself is right. From the API's reference and the developer guide.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_Operations.html
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

Problem = tuple[str, str]
"""Path and message."""

MAX_ENVIRONMENT_BYTES = 32_768
MAX_TRANSFORM_MB = 100
MIN_CANARY_INSTANCES = 2
SERVERLESS_STEP_MB = 1024


def broken_rules(operation: str, request: Mapping[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    if operation in _RULES:
        # a field of the wrong type, or that is not there, has been reported as such
        with suppress(TypeError, AttributeError, KeyError, IndexError):
            found.extend(_RULES[operation](request))
    return found


def _training(request: Mapping[str, Any]) -> Iterator[Problem]:
    if "ServerlessJobConfig" not in request:
        for name in ("AlgorithmSpecification", "ResourceConfig", "StoppingCondition"):
            if name not in request:
                yield name, "is required for a job with an image of its own"
    stopping, spot = request.get("StoppingCondition", {}), request.get("EnableManagedSpotTraining", False)
    run, wait = stopping.get("MaxRuntimeInSeconds"), stopping.get("MaxWaitTimeInSeconds")
    if spot and wait is None:
        yield "StoppingCondition.MaxWaitTimeInSeconds", "is required for spot instances"
    if not spot and wait is not None:
        yield "StoppingCondition.MaxWaitTimeInSeconds", "is for spot instances only"
    if wait is not None and run is not None and wait < run:
        yield "StoppingCondition.MaxWaitTimeInSeconds", f"{wait} is less than MaxRuntimeInSeconds, {run}"
    if spot and request.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds"):
        yield "ResourceConfig.KeepAlivePeriodInSeconds", "warm pools take no spot instances"
    names = [channel["ChannelName"] for channel in request.get("InputDataConfig", [])]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "InputDataConfig", f"two channels are called {name!r}"
    for i, channel in enumerate(request.get("InputDataConfig", [])):
        uri = channel.get("DataSource", {}).get("S3DataSource", {}).get("S3Uri", "")
        if channel.get("InputMode") == "FastFile" and not uri.endswith("/"):
            yield (
                f"InputDataConfig[{i}].DataSource.S3DataSource.S3Uri",
                "FastFile needs a prefix that ends with /",
            )


def _model(request: Mapping[str, Any]) -> Iterator[Problem]:
    container = request.get("PrimaryContainer", {})
    size = sum(len(key.encode()) + len(value.encode()) for key, value in container.get("Environment", {}).items())
    if size > MAX_ENVIRONMENT_BYTES:
        yield "PrimaryContainer.Environment", f"has {size} bytes, allowed: {MAX_ENVIRONMENT_BYTES}"
    url = container.get("ModelDataUrl", "")
    if url and not url.endswith(".tar.gz"):
        yield "PrimaryContainer.ModelDataUrl", f"{url!r} must name a .tar.gz"


def _endpoint_config(request: Mapping[str, Any]) -> Iterator[Problem]:
    for i, variant in enumerate(request["ProductionVariants"]):
        path = f"ProductionVariants[{i}]"
        serverless = variant.get("ServerlessConfig")
        if serverless is None:
            for name in ("InstanceType", "InitialInstanceCount"):
                if name not in variant:
                    yield f"{path}.{name}", "is required for instances"
            continue
        for name in ("InstanceType", "InitialInstanceCount", "ContainerStartupHealthCheckTimeoutInSeconds"):
            if name in variant:
                yield f"{path}.{name}", "is not for serverless endpoints"
        if serverless["MemorySizeInMB"] % SERVERLESS_STEP_MB:
            yield f"{path}.ServerlessConfig.MemorySizeInMB", f"must be a multiple of {SERVERLESS_STEP_MB}"
        if serverless.get("ProvisionedConcurrency", 0) > serverless["MaxConcurrency"]:
            yield f"{path}.ServerlessConfig.ProvisionedConcurrency", "is more than MaxConcurrency"
        for name in ("AsyncInferenceConfig", "DataCaptureConfig", "KmsKeyId"):
            if name in request:
                yield name, "is not for serverless endpoints"


def _transform(request: Mapping[str, Any]) -> Iterator[Problem]:
    payload, concurrent = request.get("MaxPayloadInMB", 6), request.get("MaxConcurrentTransforms", 1)
    if payload * max(concurrent, 1) > MAX_TRANSFORM_MB:
        yield "MaxPayloadInMB", f"{payload} MB x {concurrent} concurrent transforms is above {MAX_TRANSFORM_MB} MB"
    source, output = request["TransformInput"], request["TransformOutput"]
    split, assemble = source.get("SplitType", "None"), output.get("AssembleWith", "None")
    if request.get("BatchStrategy") == "MultiRecord" and split == "None":
        yield "BatchStrategy", "MultiRecord needs a SplitType"
    if request.get("DataProcessing", {}).get("JoinSource") == "Input":
        if source.get("ContentType") != output.get("Accept"):
            yield "TransformOutput.Accept", "a join needs the same content type in and out"
        if split != assemble:
            yield "TransformOutput.AssembleWith", "a join needs the same as SplitType"


def _update(request: Mapping[str, Any]) -> Iterator[Problem]:
    routing = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    path = "DeploymentConfig.BlueGreenUpdatePolicy.TrafficRoutingConfiguration"
    wanted = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(routing["Type"])
    for name in ("CanarySize", "LinearStepSize"):
        if (name in routing) != (name == wanted):
            yield f"{path}.{name}", f"{'is required' if name == wanted else 'is not'} for {routing['Type']}"
    if wanted and routing[wanted]["Type"] == "CAPACITY_PERCENT":
        low, size = (10 if wanted == "LinearStepSize" else 1), routing[wanted]["Value"]
        if not low <= size <= 50:
            yield f"{path}.{wanted}.Value", f"is {size} %, allowed: {low} to 50"


def _scaling(request: Mapping[str, Any]) -> Iterator[Problem]:
    low, high = request["MinCapacity"], request["MaxCapacity"]
    if low > high:
        yield "MinCapacity", f"{low} is more than MaxCapacity, {high}"


def _invoke_async(request: Mapping[str, Any]) -> Iterator[Problem]:
    if ("Body" in request) == ("InputLocation" in request):
        yield "InputLocation", "exactly one of InputLocation and Body is needed"


_RULES: dict[str, Callable[[Mapping[str, Any]], Iterator[Problem]]] = {
    "CreateTrainingJob": _training,
    "CreateModel": _model,
    "CreateEndpointConfig": _endpoint_config,
    "CreateTransformJob": _transform,
    "UpdateEndpoint": _update,
    "RegisterScalableTarget": _scaling,
    "InvokeEndpointAsync": _invoke_async,
}
