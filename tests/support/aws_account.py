"""An AWS account by moto on a port of this machine, with an endpoint whose answers come from the real service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from tests.support.sagemaker_endpoint import sagemaker_endpoint
from tests.support.service_process import ServiceProcess

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "your-bucket"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/gpt2-classifier-train@sha256:{'0' * 64}"


@contextmanager
def account(service: ServiceProcess, directory: Path) -> Iterator[dict[str, str]]:
    """An empty account with one bucket; yield the environment variables with which it is reached."""
    import boto3
    from moto.sagemaker.models import FakeEndpointConfig
    from moto.server import ThreadedMotoServer

    given = FakeEndpointConfig.__init__

    def repaired(self: Any, *args: Any, **kwargs: Any) -> None:
        given(self, *args, **kwargs)
        self.arn = self.endpoint_config_arn  # moto makes a tuple of it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    repair = patch.object(FakeEndpointConfig, "__init__", repaired)
    repair.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        httpx.post(f"{url}/moto-api/reset", trust_env=False).raise_for_status()  # one account a process
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        s3 = boto3.client("s3", endpoint_url=url, **keys)
        s3.create_bucket(Bucket=BUCKET)
        s3.close()
        with sagemaker_endpoint(service.url) as endpoint:
            yield {
                "AWS_ENDPOINT_URL": url,
                "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": endpoint,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": REGION,
                "AWS_CONFIG_FILE": str(directory / "none"),
                "AWS_EC2_METADATA_DISABLED": "true",
                "NO_PROXY": "127.0.0.1",
                "NOTEBOOK_BUCKET": BUCKET,
                "NOTEBOOK_ROLE": f"arn:aws:iam::{ACCOUNT}:role/SageMakerRole",
                "NOTEBOOK_IMAGE": IMAGE,
            }
    finally:
        repair.stop()
        server.stop()
