"""What the commands are told: one plan a verb, its fields the command line's options, with their units.

Ranges and patterns are not repeated here: the requests made of a plan are checked against AWS's own description.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

HOUR_S = 3600


def _option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


LINES = ("application/jsonlines", "text/csv", "text/plain")
"""Media types with a record a line."""


@dataclass(frozen=True)
class Placed:
    """What every resource has."""

    name: str = _option("", "what it belongs to: part of its name, and its tag, by which teardown finds it")
    role: str = _option("", "execution role: its ARN or name; default: the caller's own role, as in a notebook")
    kms_key: str = _option("", "KMS key for volumes and output: id, alias or ARN")
    subnets: tuple[str, ...] = _option((), "subnets of a VPC")
    security_groups: tuple[str, ...] = _option((), "security groups of that VPC")
    tags: tuple[str, ...] = _option((), "further tags, KEY=VALUE")
    environment: tuple[str, ...] = _option((), "environment variables of the container, KEY=VALUE")
    network_isolation: bool = _option(True, "no network inside the container; the model must be in it or in a channel")


@dataclass(frozen=True)
class TrainPlan(Placed):
    """A training job."""

    image: str = _option("", "the image in ECR, as `push` printed it")
    channels: tuple[str, ...] = _option(
        (), "inputs, NAME=s3://BUCKET/PREFIX, as `upload` printed them; NAME: train, val, test, base_model"
    )
    output: str = _option("", "s3://BUCKET/PREFIX for model.tar.gz, output.tar.gz and checkpoints")
    hyperparameters: tuple[str, ...] = _option(
        (), "settings of the run, KEY=VALUE, of `python -m training train --help`"
    )
    instance_type: str = _option("ml.g5.xlarge", "type of instance")
    instance_count: int = _option(1, "instances")
    volume_gb: int = _option(50, "disk of an instance without one of its own, GB")
    input_mode: str = _option("File", "File: copied before the start; FastFile: read when needed", ("File", "FastFile"))
    max_run_s: int = _option(4 * HOUR_S, "seconds of training after which the job is stopped")
    spot: bool = _option(False, "spot instances: cheaper, may be interrupted, go on from the checkpoint")
    max_wait_s: int = _option(0, "seconds that a spot job may take, waiting included; 0: twice max-run-s")
    checkpoints: str = _option("", "s3:// prefix for checkpoints; default: OUTPUT/checkpoints/JOB/")
    keep_alive_s: int = _option(0, "seconds that instances are kept for the next job (warm pool); 0: none")
    max_retries: int = _option(0, "times that AWS may start the job again after an error of its own; 0: none")
    entrypoint: str = _option("", "command in place of the image's own, as a shell has it; default: IMAGE train")
    encrypt_traffic: bool = _option(False, "encrypt what instances send each other")


@dataclass(frozen=True)
class ModelPlan(Placed):
    """A model to serve."""

    image: str = _option("", "the image in ECR, as `push` printed it")
    artifact: str = _option("", "s3://BUCKET/.../model.tar.gz; default: the model in the image")


@dataclass(frozen=True)
class DeployPlan(ModelPlan):
    """A model, an endpoint configuration, an endpoint, and how it scales."""

    mode: str = _option(
        "realtime",
        "realtime: instances that are always there; serverless: paid by use, CPU only, 4 MB a request; async: "
        "requests and answers in S3, may scale to no instance",
        ("realtime", "serverless", "async"),
    )
    instance_type: str = _option("ml.c6i.xlarge", "type of instance")
    instance_count: int = _option(1, "instances at the start")
    volume_gb: int = _option(0, "disk of an instance, GB; 0: its own")
    startup_s: int = _option(600, "seconds from the container's start to a healthy /ping")
    download_s: int = _option(600, "seconds for fetching the artifact")
    min_instances: int = _option(-1, "autoscaling: fewest; default: 1, async 0")
    max_instances: int = _option(0, "autoscaling: most; 0: none (async: 1)")
    target_per_minute: float = _option(
        600.0, "autoscaling: requests a minute and instance to aim at; half of what one instance was measured to do"
    )
    target_backlog: float = _option(5.0, "autoscaling, async: waiting requests an instance to aim at")
    scale_out_s: int = _option(120, "autoscaling: seconds between two steps up")
    scale_in_s: int = _option(600, "autoscaling: seconds between two steps down")
    memory_mb: int = _option(3072, "serverless: memory, 1024 to 6144 in steps of 1024")
    max_concurrency: int = _option(5, "serverless: requests at a time")
    provisioned: int = _option(0, "serverless: of these, always warm; 0: none")
    async_output: str = _option("", "async: s3:// prefix of answers; failures go to failures/ below it")
    async_concurrency: int = _option(4, "async: requests at a time and instance")
    success_topic: str = _option("", "async: ARN of an SNS topic told of answers")
    error_topic: str = _option("", "async: ARN of an SNS topic told of failures")

    def capacity(self) -> tuple[int, int]:
        """Fewest and most instances that autoscaling keeps; 0, 0 without autoscaling."""
        waits = self.mode == "async"
        most = self.max_instances or (1 if waits else 0)
        if self.mode == "serverless" or not most:
            return 0, 0
        return (self.min_instances if self.min_instances >= 0 else 0 if waits else 1), most


@dataclass(frozen=True)
class UpdatePlan(ModelPlan):
    """Another model behind an endpoint that serves, step by step, and back if an alarm goes off."""

    strategy: str = _option(
        "canary",
        "canary: a part of the traffic first; linear: part by part; all-at-once",
        ("canary", "linear", "all-at-once"),
    )
    step_percent: int = _option(10, "part of the traffic that moves first (canary), or each time (linear)")
    bake_s: int = _option(300, "seconds that alarms are watched after each move")
    max_s: int = _option(2 * HOUR_S, "seconds after which an update that is not done is rolled back")
    instance_type: str = _option("", "type of instance; default: as it is")
    instance_count: int = _option(0, "instances; 0: as many as there are")
    startup_s: int = _option(600, "seconds from the container's start to a healthy /ping")
    download_s: int = _option(600, "seconds for fetching the artifact")
    alarms: tuple[str, ...] = _option((), "further CloudWatch alarms that roll back")
    max_errors: int = _option(5, "answers with 5xx in a minute that roll back; 0: no such alarm")
    max_latency_ms: float = _option(5000.0, "p99 of the model's latency in a minute that rolls back; 0: no such alarm")


@dataclass(frozen=True)
class TransformPlan(ModelPlan):
    """A batch transform over files in S3."""

    model: str = _option("", "a model that SageMaker has; default: one is made of image and artifact")
    input: str = _option("", "s3:// prefix of files, a record a line")
    output: str = _option("", "s3:// prefix; each file's answers go to FILE.out")
    content_type: str = _option("application/jsonlines", "of input", LINES)
    accept: str = _option("", "of output; default: as input")
    compression: str = _option("None", "of input files", ("None", "Gzip"))
    strategy: str = _option("MultiRecord", "lines in a request", ("MultiRecord", "SingleRecord"))
    max_payload_mb: int = _option(5, "size of a request, MB; below SERVICE_MAX_BODY_BYTES")
    concurrent: int = _option(4, "requests at a time and instance; 0: as the container says")
    timeout_s: int = _option(600, "seconds for one request")
    retries: int = _option(3, "times that a failed request is sent again")
    join: bool = _option(False, "put each answer beside its input (JSON: under SageMakerOutput)")
    input_filter: str = _option("", "JSONPath: the part of a record that is sent")
    output_filter: str = _option("", "JSONPath: the part of a joined record that is kept")
    instance_type: str = _option("ml.c6i.xlarge", "type of instance")
    instance_count: int = _option(1, "instances; each takes whole files")
