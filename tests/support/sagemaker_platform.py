"""Training jobs that train and endpoints that answer, which moto only pretends to have.

A job is `training.sagemaker.job.container` as a process on its channels out of moto's S3; its log goes to moto's logs,
its model to moto's S3. An endpoint is the real service on the model that it names, behind
`tests.support.sagemaker_endpoint`, so it is called `articles`.
"""

import io
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from moto.sagemaker.models import SageMakerModelBackend

from benchmarks.processes import free_port
from tests.support.sagemaker_emulator import Job
from tests.support.sagemaker_endpoint import sagemaker_endpoint
from tests.support.service_process import service_process
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.follow import LOG_GROUPS
from training.sagemaker.launch.uploads import bucket_and_key


class Platform:
    """Runs the jobs and the endpoint of one account.

    Args:
        root: a directory for them.
        aws: the account.
    """

    def __init__(self, root: Path, aws: Aws) -> None:
        self._root, self._aws = root, aws
        self.port = free_port()
        self._threads: list[threading.Thread] = []
        self._endpoint = ExitStack()
        aws.call("logs", "CreateLogGroup", logGroupName=LOG_GROUPS["training"])

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self.remove_endpoint()

    def train(self, job: Any) -> None:
        """Start a job that moto has created and called completed."""
        job.training_job_status, job.secondary_status = "InProgress", "Training"
        job.secondary_status_transitions = []
        thread = threading.Thread(target=self._train, args=(job,), name=job.training_job_name)
        self._threads.append(thread)
        thread.start()

    def _train(self, job: Any) -> None:
        name, group = job.training_job_name, LOG_GROUPS["training"]
        place = Job(self._root / name, job.hyper_parameters, None, rows=(), TRAINING_JOB_NAME=name)
        kinds = {}
        for channel in job.input_data_config:
            source = channel["DataSource"]["S3DataSource"]
            self._fetch(source["S3Uri"], place.root / "input" / "data" / channel["ChannelName"])
            kinds[channel["ChannelName"]] = {
                "TrainingInputMode": "File",
                "S3DistributionType": source["S3DataDistributionType"],
            }
        place.describe(**kinds)
        stream = f"{name}/algo-1-{int(time.time())}"
        self._aws.call("logs", "CreateLogStream", logGroupName=group, logStreamName=stream)
        with place.start() as process:
            assert process.stdout is not None
            for line in filter(str.strip, process.stdout):
                event = {"timestamp": int(time.time() * 1000), "message": line}
                self._aws.call("logs", "PutLogEvents", logGroupName=group, logStreamName=stream, logEvents=[event])
        status = "Failed" if process.returncode else "Completed"
        if process.returncode:
            job.failure_reason = place.failure
        else:
            bucket, key = bucket_and_key(job.model_artifacts["S3ModelArtifacts"])
            self._aws.call("s3", "PutObject", Bucket=bucket, Key=key, Body=_packed(place.root / "model"))
        job.training_job_status = job.secondary_status = status

    def _fetch(self, uri: str, target: Path) -> None:
        bucket, prefix = bucket_and_key(uri)
        for found in self._aws.call("s3", "ListObjectsV2", Bucket=bucket, Prefix=prefix)["Contents"]:
            path = target / found["Key"].removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._aws.call("s3", "GetObject", Bucket=bucket, Key=found["Key"])["Body"].read())

    def make_endpoint(self, container: Mapping[str, Any]) -> None:
        """Serve the model of a CreateModel request's container, and return when it is ready."""
        (bucket, key), model = bucket_and_key(container["ModelDataUrl"]), self._root / "endpoint"
        content = self._aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(model, filter="data")
        self._endpoint.enter_context(service_process(model, port=self.port, **container.get("Environment", {})))

    def remove_endpoint(self) -> None:
        self._endpoint.close()


def _packed(directory: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(directory, arcname=".")
    return content.getvalue()


@contextmanager
def platform(root: Path, aws: Aws) -> Iterator[str]:
    """Make moto's jobs and endpoints real for a while; yields the `endpoint_url` of sagemaker-runtime."""
    own = Platform(root, aws)
    create_job, create_endpoint = SageMakerModelBackend.create_training_job, SageMakerModelBackend.create_endpoint
    delete_endpoint = SageMakerModelBackend.delete_endpoint

    def train(backend: Any, **request: Any) -> Any:
        job = create_job(backend, **request)
        own.train(job)
        return job

    def deploy(backend: Any, **request: Any) -> Any:
        endpoint = create_endpoint(backend, **request)
        variants = backend.endpoint_configs[request["endpoint_config_name"]].production_variants
        own.make_endpoint(backend._models[variants[0]["ModelName"]].primary_container)
        return endpoint

    def remove(backend: Any, endpoint_name: str) -> None:
        own.remove_endpoint()
        delete_endpoint(backend, endpoint_name)

    with ExitStack() as stack:
        stack.callback(own.close)
        for name, wrapped in {
            "create_training_job": train,
            "create_endpoint": deploy,
            "delete_endpoint": remove,
        }.items():
            stack.enter_context(patch.object(SageMakerModelBackend, name, wrapped))
        yield stack.enter_context(sagemaker_endpoint(f"http://127.0.0.1:{own.port}"))
