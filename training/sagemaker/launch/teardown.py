"""The command `teardown`: find what carries the tag of a deployment, show it, and remove it.

Artifacts in S3, images in ECR and logs stay, because they do not carry the tag.
"""

from collections.abc import Iterator

from training.sagemaker.errors import AwsError, NotFoundError
from training.sagemaker.launch.launcher import DONE, FAILED, Launcher
from training.sagemaker.launch.options import TeardownOptions
from training.sagemaker.launch.requests import NAME_TAG, PROJECT, PROJECT_TAG, ApiRequest, checked_name

KINDS = {
    "endpoint": "Endpoint", "endpoint-config": "EndpointConfig", "model": "Model", "training-job": "TrainingJob",
    "transform-job": "TransformJob",
}  # fmt: skip
"""Kinds of SageMaker's resources in the order of removal: a resource comes after those that use it."""


def teardown(launcher: Launcher, options: TeardownOptions) -> int:
    """Remove everything that carries a deployment's tag, after showing it and asking. A dry run only shows."""
    found = list(_removals(launcher, checked_name(options.name)))
    if not found:
        launcher.console.say(f"nothing in {launcher.aws.region} carries the tag of {options.name!r}")
        return DONE
    for description, _ in found:
        launcher.console.result(description)
    if options.dry_run:
        return DONE
    if not launcher.confirm(f"remove these {len(found)}?"):
        return FAILED
    failures = []
    for description, request in found:
        try:
            launcher.aws.send(request)
        except NotFoundError:
            pass  # it is gone already
        except AwsError as exc:
            failures.append(f"{description}: {exc}")
    if failures:
        raise AwsError("not removed:\n  " + "\n  ".join(failures))
    launcher.console.say("removed; files in S3, images in ECR and logs stay")
    return DONE


def _removals(launcher: Launcher, name: str) -> Iterator[tuple[str, ApiRequest]]:
    """Yield a description and the request that removes it for everything with both tags; jobs only while they run."""
    filters = {
        "TagFilters": [{"Key": PROJECT_TAG, "Values": [PROJECT]}, {"Key": NAME_TAG, "Values": [name]}],
        "ResourceTypeFilters": [*(f"sagemaker:{kind}" for kind in KINDS), "cloudwatch:alarm"],
    }
    found = launcher.aws.pages("resourcegroupstaggingapi", "GetResources", "ResourceTagMappingList", **filters)
    arns = sorted(entry["ResourceARN"].split(":", 6) for entry in found)  # arn:partition:service:region:account:...
    for kind, title in KINDS.items():
        for arn in arns:
            if arn[2] == "sagemaker" and arn[5].startswith(f"{kind}/"):
                yield from _removals_of(launcher, kind, title, arn[5].partition("/")[2])
    alarms = [arn[6] for arn in arns if arn[2] == "cloudwatch"]
    if alarms:
        yield f"alarms {', '.join(alarms)}", ApiRequest("cloudwatch", "DeleteAlarms", {"AlarmNames": alarms})


def _removals_of(launcher: Launcher, kind: str, title: str, name: str) -> Iterator[tuple[str, ApiRequest]]:
    named = {f"{title}Name": name}
    if title.endswith("Job"):
        try:
            status = launcher.aws.call("sagemaker", f"Describe{title}", **named)[f"{title}Status"]
        except NotFoundError:
            return
        except AwsError:  # the others are removed all the same, and stopping this one says what is wrong
            status = "InProgress"
        if status == "InProgress":
            yield f"running {kind} {name}", ApiRequest("sagemaker", f"Stop{title}", named)
        return
    for target in launcher.aws.scalable_targets(name) if kind == "endpoint" else ():
        parameters = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        request = ApiRequest("application-autoscaling", "DeregisterScalableTarget", parameters)
        yield f"autoscaling of {target['ResourceId']}", request
    yield f"{kind} {name}", ApiRequest("sagemaker", f"Delete{title}", named)
