"""The commands `train`, `deploy`, `update` and `transform`: options become requests, which are checked and sent."""

from collections.abc import Mapping
from typing import Any

from training.sagemaker.errors import LaunchError, NotFoundError
from training.sagemaker.job.channels import BASE_MODEL
from training.sagemaker.job.container import METRIC_DEFINITIONS
from training.sagemaker.job.hyperparameters import parse_hyperparameters, training_config
from training.sagemaker.launch.endpoints import deploy_requests
from training.sagemaker.launch.follow import follow_job
from training.sagemaker.launch.images import check_image_trains
from training.sagemaker.launch.launcher import DONE, FAILED, Launcher
from training.sagemaker.launch.options import DeployOptions, TrainOptions, TransformOptions, UpdateOptions
from training.sagemaker.launch.requests import checked_name, key_values, training_request, transform_requests
from training.sagemaker.launch.updates import update_requests

IN_IMAGE = "models/default"
"""The base model that is part of the training image."""


def train(launcher: Launcher, options: TrainOptions) -> int:
    """Start a training job and follow it to its end."""
    if not options.entrypoint:  # another program has its own settings
        # the container would refuse them too, but minutes later, when the instance is paid for
        given = parse_hyperparameters(key_values(options.hyperparameters, "--hyperparameters"))
        base = training_config(given, data="train", output="model").base_model
        has_channel = BASE_MODEL in key_values(options.channels, "--channels")
        if options.network_isolation and not has_channel and base != IN_IMAGE and not base.startswith("/"):
            raise LaunchError(
                f"the job has no network to fetch the base model {base!r} from the Hugging Face hub: `upload` its "
                f"directory and pass --channels {BASE_MODEL}=s3://..., or pass --no-network-isolation"
            )
    request = training_request(options, launcher.role(options.role), METRIC_DEFINITIONS, launcher.console.now())
    if launcher.is_preview([request]):
        return DONE
    if not options.entrypoint:
        check_image_trains(launcher.aws, options.image)
    launcher.send_all([request])
    return follow_job(launcher, "training", request.parameters["TrainingJobName"], started=True, wait=options.wait)


def transform(launcher: Launcher, options: TransformOptions) -> int:
    """Classify files in S3 and wait until that is done."""
    role = launcher.role(options.role) if options.image and not options.model else ""
    requests = transform_requests(options, role, launcher.console.now())
    if launcher.is_preview(requests):
        return DONE
    launcher.send_all(requests)
    job = requests[-1].parameters["TransformJobName"]
    return follow_job(launcher, "transform", job, started=True, wait=options.wait)


def deploy(launcher: Launcher, options: DeployOptions) -> int:
    """Create an endpoint and wait until it is in service."""
    name = options.name
    requests = deploy_requests(options, launcher.role(options.role), launcher.console.now())
    if launcher.is_preview(requests):
        return DONE
    try:
        launcher.aws.call("sagemaker", "DescribeEndpoint", EndpointName=name)
        raise LaunchError(f"endpoint {name} exists: `update` gives it another model, `teardown` removes it")
    except NotFoundError:
        pass  # as it should be
    launcher.send_all(requests, f"`python -m training.sagemaker teardown --name {name}` removes what was created")
    launcher.console.result(name)
    return DONE


def update(launcher: Launcher, options: UpdateOptions) -> int:
    """Move an endpoint to another model, and back if an alarm goes off. A dry run asks AWS what serves now."""
    name = checked_name(options.name)
    config, model = _serving(launcher, options)
    role = launcher.aws.role(options.role) if options.role else ""
    requests = update_requests(options, role, config, model, launcher.console.now())
    if launcher.is_preview(requests):
        return DONE
    container = requests[0].parameters["PrimaryContainer"]
    moved = f"move endpoint {name} to {container['Image']} {container.get('ModelDataUrl', '')}".rstrip()
    removed = f" and remove its {', '.join(options.remove)}" if options.remove else ""
    if not launcher.confirm(f"{moved}{removed}?"):
        return FAILED
    launcher.send_all(requests)
    launcher.console.result(name)
    return DONE


def _serving(launcher: Launcher, options: UpdateOptions) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the configuration and the model that are in service, as AWS describes them."""
    described = launcher.aws.call("sagemaker", "DescribeEndpoint", EndpointName=options.name)
    named = {"EndpointConfigName": described["EndpointConfigName"]}
    config = launcher.aws.call("sagemaker", "DescribeEndpointConfig", **named)
    variants = config["ProductionVariants"]
    # the configuration has the count of the start, which autoscaling may have changed
    for variant, now in zip(variants, described.get("ProductionVariants", []), strict=False):
        variant["InitialInstanceCount"] = now.get("DesiredInstanceCount") or variant.get("InitialInstanceCount")
    types = {variant.get("InstanceType") for variant in variants}
    if options.instance_type and types != {options.instance_type} and launcher.aws.scalable_targets(options.name):
        raise LaunchError(
            f"AWS refuses another instance type while {options.name} has autoscaling: deploy under another name, or "
            "deregister its scalable target first"
        )
    return config, launcher.aws.call("sagemaker", "DescribeModel", ModelName=variants[0]["ModelName"])
