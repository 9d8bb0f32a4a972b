"""Options of each command: one class for each command, whose docstring and fields are shown by `--help`.

Ranges and patterns are not repeated here: the requests are checked against AWS's own description of its API.
"""

from dataclasses import dataclass

from training.options import POSITIONAL, setting

HOUR_S = 3600
INPUT_MODES, BATCHES = ("File", "FastFile"), ("MultiRecord", "SingleRecord")
STRATEGIES = ("canary", "linear", "all-at-once")
LINE_TYPES = ("application/jsonlines", "text/csv", "text/plain")
"""Media types with one record on each line."""
_IMAGE = "the image in ECR, as `push` printed it"
_RATE = (
    "tokens per second of the model on an instance, as its log has them at the start; the default is GPT-2 small's in "
    "float32 on two cores"
)
_STARTUP = "seconds from the start of the container to a healthy /ping"
_DOWNLOAD = "seconds for the download of the artifact"


@dataclass(frozen=True)
class CommonOptions:
    """Options of every command."""

    region: str = setting("", "AWS region; default: boto3's")
    profile: str = setting("", "profile of boto3's configuration")
    account: str = setting("", "account number; default: the caller's account")
    dry_run: bool = setting(False, "print the requests and send nothing")
    yes: bool = setting(False, "answer every question with yes")


@dataclass(frozen=True)
class PushOptions(CommonOptions):
    """Push a local image to ECR."""

    image: str = setting("", "the local image")
    repository: str = setting("", "the repository in ECR; it is created if it does not exist")
    tag: str = setting("", "tag of the image; default: the time in UTC")
    tool: str = setting("", "docker, podman or buildah; default: the first that is installed")
    kms_key: str = setting("", "KMS key of a repository that is created")


@dataclass(frozen=True, kw_only=True)
class UploadOptions(CommonOptions):
    """Copy a file, data or an artifact to S3, under the hash of its content."""

    source: str = setting(POSITIONAL, "a file or directory; an artifact becomes a model.tar.gz")
    destination: str = setting(POSITIONAL, "s3://BUCKET/PREFIX")
    kms_key: str = setting("", "KMS key of the objects that are written")
    raw: bool = setting(False, "upload the files of an artifact as they are, for a training channel")


@dataclass(frozen=True, kw_only=True)
class FollowOptions(CommonOptions):
    """Follow a job's status and log until it ends."""

    kind: str = setting(POSITIONAL, "kind of the job", choices=("training", "transform"))
    job: str = setting(POSITIONAL, "name of the job")


@dataclass(frozen=True)
class InvokeOptions(CommonOptions):
    """Ask an endpoint."""

    name: str = setting("", "the endpoint")
    text: tuple[str, ...] = setting((), "a text to classify")
    file: str = setting("", "a file with the body of the request")
    content_type: str = setting("", "media type of the body; default: by the file's name")
    accept: str = setting("", "media type of the answer; default: that of the body")
    async_: bool = setting(False, "the endpoint is asynchronous")
    input: str = setting("", "asynchronous: an s3:// object instead of texts and file")
    wait_s: float = setting(3600.0, "asynchronous: seconds to wait for the answer")
    wait: bool = setting(True, "asynchronous: wait for the answer")


@dataclass(frozen=True)
class TeardownOptions(CommonOptions):
    """Show and remove what was created under a name."""

    name: str = setting("", "the name that was given to `deploy` or `train`")


@dataclass(frozen=True)
class ResourceOptions(CommonOptions):
    """Options of every command that creates resources."""

    name: str = setting(
        "", "name of the deployment: part of every resource's name, and the tag that teardown looks for"
    )
    role: str = setting("", "execution role, its ARN or name; default: the caller's own role, as in a notebook")
    kms_key: str = setting("", "KMS key for output, and for disks but an instance's own: id, alias or ARN")
    subnets: tuple[str, ...] = setting((), "a subnet of a VPC")
    security_groups: tuple[str, ...] = setting((), "a security group of that VPC")
    tags: tuple[str, ...] = setting((), "a further tag, KEY=VALUE")
    environment: tuple[str, ...] = setting((), "an environment variable of the container, KEY=VALUE")


@dataclass(frozen=True)
class ContainerOptions(ResourceOptions):
    """Options of every command that starts a container anew."""

    network_isolation: bool = setting(True, "give the container no network; the model must be in it or in a channel")


@dataclass(frozen=True)
class TrainOptions(ContainerOptions):
    """Start a training job and follow its log."""

    image: str = setting("", _IMAGE)
    channels: tuple[str, ...] = setting((), "an input, NAME=s3://PREFIX; NAME: train, val, test, base_model")
    output: str = setting("", "s3://BUCKET/PREFIX for model.tar.gz, output.tar.gz and checkpoints")
    hyperparameters: tuple[str, ...] = setting((), "a setting of `python -m training train`, KEY=VALUE")
    instance_type: str = setting("ml.g5.xlarge", "type of the instances")
    instance_count: int = setting(1, "number of instances")
    volume_gb: int = setting(50, "disk of an instance without one of its own, GB")
    input_mode: str = setting("File", "File: copy inputs first; FastFile: read them when needed", choices=INPUT_MODES)
    max_run_s: int = setting(4 * HOUR_S, "seconds of training after which the job is stopped")
    spot: bool = setting(False, "use spot instances: cheaper; an interrupted job resumes from its checkpoint")
    max_wait_s: int = setting(0, "seconds that a spot job may take, waiting included; 0: twice max-run-s")
    checkpoints: str = setting("", "s3:// prefix for checkpoints; default: OUTPUT/checkpoints/JOB/")
    keep_alive_s: int = setting(0, "seconds that instances are kept for the next job (warm pool); 0: none")
    max_retries: int = setting(0, "number of times that AWS may restart the job after an error of its own; 0: none")
    entrypoint: str = setting("", "shell command instead of the image's own; default: IMAGE train")
    encrypt_traffic: bool = setting(False, "encrypt the traffic between instances")
    wait: bool = setting(True, "follow the job until it ends")


@dataclass(frozen=True)
class ModelOptions(ContainerOptions):
    """A model to serve."""

    image: str = setting("", _IMAGE)
    artifact: str = setting("", "s3://BUCKET/.../model.tar.gz; default: the model in the image")


@dataclass(frozen=True)
class DeployOptions(ModelOptions):
    """Create an endpoint (real-time, serverless or asynchronous) and its autoscaling."""

    mode: str = setting(
        "realtime",
        "realtime: instances that are always there; serverless: paid by use, CPU only, 4 MB a request; async: "
        "requests and answers in S3, may scale to no instance",
        choices=("realtime", "serverless", "async"),
    )
    instance_type: str = setting("ml.c6i.xlarge", "type of the instances")
    instance_count: int = setting(1, "number of instances at the start")
    volume_gb: int = setting(0, "disk of an instance, GB; 0: its own")
    startup_s: int = setting(600, _STARTUP)
    download_s: int = setting(600, _DOWNLOAD)
    min_instances: int = setting(-1, "autoscaling: fewest instances; -1: 1, for async 0")
    max_instances: int = setting(0, "autoscaling: most instances; 0: no autoscaling (async: 1)")
    target_per_minute: float = setting(600.0, "autoscaling: requests per minute and instance to aim at")
    target_backlog: float = setting(5.0, "autoscaling, async: target of waiting requests per instance")
    scale_out_s: int = setting(120, "autoscaling: seconds between two steps up")
    scale_in_s: int = setting(600, "autoscaling: seconds between two steps down")
    memory_mb: int = setting(3072, "serverless: memory in MB, 1024 to 6144 in steps of 1024")
    max_concurrency: int = setting(5, "serverless: concurrent requests")
    provisioned: int = setting(0, "serverless: concurrency that is always warm; 0: none")
    async_output: str = setting("", "async: s3:// prefix of the answers; failures go to failures/ below it")
    async_concurrency: int = setting(2, "async: concurrent requests per instance")
    tokens_per_second: float = setting(600.0, f"async: the largest request follows from it: {_RATE}")
    success_topic: str = setting("", "async: ARN of an SNS topic that is told of answers")
    error_topic: str = setting("", "async: ARN of an SNS topic that is told of failures")

    def capacity(self) -> tuple[int, int]:
        """Return the smallest and largest number of instances of autoscaling; 0 and 0 without autoscaling."""
        is_async = self.mode == "async"
        most = self.max_instances or (1 if is_async else 0)
        if self.mode == "serverless" or not most:
            return 0, 0
        return (self.min_instances if self.min_instances >= 0 else 0 if is_async else 1), most


@dataclass(frozen=True)
class UpdateOptions(ResourceOptions):
    """Give an endpoint another model, in steps that alarms roll back. What no option changes stays as it is."""

    role: str = setting("", "execution role, its ARN or name; default: as it is")
    image: str = setting("", f"{_IMAGE}; default: as it is")
    artifact: str = setting("", "s3://BUCKET/.../model.tar.gz; default: as it is")
    remove: tuple[str, ...] = setting(
        (), "what the endpoint shall no longer have: vpc, kms-key, capture, or the name of an environment variable"
    )
    strategy: str = setting("canary", "canary: a part of the traffic first; linear: part by part", choices=STRATEGIES)
    step_percent: int = setting(10, "percentage of the capacity that moves first (canary) or in each step (linear)")
    bake_s: int = setting(300, "seconds that alarms are watched after each step")
    max_s: int = setting(2 * HOUR_S, "seconds after which an unfinished update is rolled back")
    instance_type: str = setting("", "type of the instances; default: as it is")
    instance_count: int = setting(0, "number of instances; 0: as many as there are")
    startup_s: int = setting(0, f"{_STARTUP}; 0: as it is")
    download_s: int = setting(0, f"{_DOWNLOAD}; 0: as it is")
    alarms: tuple[str, ...] = setting((), "a further CloudWatch alarm that rolls back")
    max_errors: int = setting(5, "answers with status 5xx in a minute that roll back; 0: no such alarm")
    max_latency_ms: float = setting(5000.0, "p99 latency in ms over a minute that rolls back; 0: no such alarm")


@dataclass(frozen=True)
class TransformOptions(ModelOptions):
    """Classify files in S3."""

    model: str = setting("", "a model that SageMaker has; default: one is created from image and artifact")
    input: str = setting("", "s3:// prefix of files with one record on each line")
    output: str = setting("", "s3:// prefix; the answers to each file go to FILE.out")
    content_type: str = setting("application/jsonlines", "media type of the input", choices=LINE_TYPES)
    accept: str = setting("", "media type of the output; default: that of the input")
    compression: str = setting("None", "compression of the input files", choices=("None", "Gzip"))
    strategy: str = setting("MultiRecord", "MultiRecord: many lines in a request", choices=BATCHES)
    max_payload_mb: int = setting(1, "size of a request in MB")
    concurrent: int = setting(2, "concurrent requests per instance")
    tokens_per_second: float = setting(600.0, f"the time for one request follows from it: {_RATE}")
    retries: int = setting(3, "number of times that a failed request is sent again")
    join: bool = setting(False, "put each answer beside its input (JSON: under SageMakerOutput)")
    input_filter: str = setting("", "JSONPath: the part of a record that is sent")
    output_filter: str = setting("", "JSONPath: the part of a joined record that is kept")
    instance_type: str = setting("ml.c6i.xlarge", "type of the instances")
    instance_count: int = setting(1, "number of instances; each takes whole files")
    wait: bool = setting(True, "follow the job until it ends")
