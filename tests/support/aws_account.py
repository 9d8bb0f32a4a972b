"""An AWS account by moto on a port of this machine, with an endpoint whose answers come from the real service."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    repairs = _repairs_of_moto()
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
        repairs.close()
        server.stop()


def _repairs_of_moto() -> ExitStack:
    """Mend moto's endpoints until the returned stack is closed: their instance types, tags and updates."""
    from moto.core.responses import ActionResult
    from moto.sagemaker.models import FakeEndpointConfig
    from moto.sagemaker.responses import SageMakerResponse

    given = FakeEndpointConfig.__init__

    def repaired(self: Any, *args: Any, **kwargs: Any) -> None:
        given(self, *args, **kwargs)
        self.arn = self.endpoint_config_arn  # moto makes a tuple of it

    def update_endpoint(self: Any) -> ActionResult:
        endpoint = self.sagemaker_backend.endpoints[self._get_param("EndpointName")]
        endpoint.endpoint_config_name = self._get_param("EndpointConfigName")
        return ActionResult({"EndpointArn": endpoint.arn})

    repairs = ExitStack()
    repairs.enter_context(patch.object(FakeEndpointConfig, "__init__", repaired))
    # moto's list of instance types ends in 2020; the commands check types by AWS's own
    repairs.enter_context(patch.object(FakeEndpointConfig, "validate_instance_type", lambda *_: None))
    repairs.enter_context(patch.object(SageMakerResponse, "update_endpoint", update_endpoint, create=True))
    return repairs
