"""What carries the tag of one deployment: found, shown, and removed in an order in which nothing is missed.

Artifacts in S3, images in ECR and logs stay: they are not found by this tag.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.sagemaker.errors import AwsError
from training.sagemaker.launch.aws import Aws, is_error
from training.sagemaker.launch.calls import Call
from training.sagemaker.launch.endpoints import DIMENSION
from training.sagemaker.launch.requests import NAME_TAG, PROJECT, PROJECT_TAG

TYPES = (
    "sagemaker:endpoint",
    "sagemaker:endpoint-config",
    "sagemaker:model",
    "sagemaker:training-job",
    "sagemaker:transform-job",
    "cloudwatch:alarm",
)
GONE = ("ValidationException", "ObjectNotFoundException", "ResourceNotFound", "ResourceNotFoundException")


@dataclass(frozen=True)
class Removal:
    """One thing to remove."""

    what: str
    call: Call


def removals(aws: Aws, name: str) -> list[Removal]:
    """All that carries both tags and costs or can cost something, in the order of removal; jobs only while they run."""
    found = aws.pages(
        "resourcegroupstaggingapi",
        "GetResources",
        "ResourceTagMappingList",
        TagFilters=[{"Key": PROJECT_TAG, "Values": [PROJECT]}, {"Key": NAME_TAG, "Values": [name]}],
        ResourceTypeFilters=list(TYPES),
    )
    arns = sorted(entry["ResourceARN"] for entry in found)
    removed: list[Removal] = []
    for kind in ("endpoint", "endpoint-config", "model", "training-job", "transform-job"):
        for arn in arns:
            resource = arn.split(":", 5)[5]
            if resource.startswith(f"{kind}/") and arn.split(":")[2] == "sagemaker":
                removed += _of(aws, kind, resource.partition("/")[2])
    alarms = [arn.split(":", 6)[6] for arn in arns if arn.split(":")[2] == "cloudwatch"]
    if alarms:
        removed.append(
            Removal(f"alarms {', '.join(alarms)}", Call("cloudwatch", "DeleteAlarms", {"AlarmNames": alarms}))
        )
    return removed


def _of(aws: Aws, kind: str, name: str) -> list[Removal]:
    if kind in ("training-job", "transform-job"):
        title = kind.partition("-")[0].capitalize()
        try:
            job = aws.ask("sagemaker", f"Describe{title}Job", **{f"{title}JobName": name})
        except AwsError as exc:  # the others are removed all the same, and removing this one says why not
            job = {} if not is_error(exc, *GONE) else {f"{title}JobStatus": "Deleted"}
        if job.get(f"{title}JobStatus", "InProgress") != "InProgress":
            return []
        return [Removal(f"running {kind} {name}", Call("sagemaker", f"Stop{title}Job", {f"{title}JobName": name}))]
    title = {"endpoint": "Endpoint", "endpoint-config": "EndpointConfig", "model": "Model"}[kind]
    deleted = Removal(f"{kind} {name}", Call("sagemaker", f"Delete{title}", {f"{title}Name": name}))
    return [*(_targets(aws, name) if kind == "endpoint" else []), deleted]


def _targets(aws: Aws, endpoint: str) -> list[Removal]:
    """Autoscaling of an endpoint's variants, policies and their alarms included."""
    targets = aws.pages(
        "application-autoscaling",
        "DescribeScalableTargets",
        "ScalableTargets",
        ServiceNamespace="sagemaker",
        ScalableDimension=DIMENSION,
    )
    keys = ("ServiceNamespace", "ResourceId", "ScalableDimension")
    return [
        Removal(
            f"autoscaling of {target['ResourceId']}",
            Call("application-autoscaling", "DeregisterScalableTarget", {key: target[key] for key in keys}),
        )
        for target in targets
        if target["ResourceId"].startswith(f"endpoint/{endpoint}/")
    ]


def remove(aws: Aws, removed: Sequence[Removal]) -> list[str]:
    """Remove all, whatever fails; what could not be removed, and why. What is gone already is no failure."""
    failures = []
    for one in removed:
        try:
            aws.call(one.call)
        except AwsError as exc:
            if not (is_error(exc, *GONE) and "not" in str(exc).lower() and "find" in str(exc).lower()):
                failures.append(f"{one.what}: {exc}")
    return failures
