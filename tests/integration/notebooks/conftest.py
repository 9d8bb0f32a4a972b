"""What the notebooks ask: AWS by moto, and an endpoint whose answers come from the real service."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import nbformat
from nbclient import NotebookClient

from tests.integration.third_party.sagemaker_endpoint import sagemaker_endpoint
from tests.support import ROOT
from tests.support.service_process import ServiceProcess

ACCOUNT, REGION, BUCKET = "123456789012", "us-east-1", "your-bucket"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/gpt2-classifier-train@sha256:{'0' * 64}"
CELL_S = 1200


@contextmanager
def account(service: ServiceProcess, directory: Path) -> Iterator[dict[str, str]]:
    """An empty account with one bucket; what a notebook's environment needs to reach it."""
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


def executed(name: str, directory: Path, environment: Mapping[str, str]) -> nbformat.NotebookNode:
    """A notebook of the project, run from its first cell to its last in a new kernel.

    Raises:
        CellExecutionError: with the cell and what it said.
    """
    book: nbformat.NotebookNode = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "SM_", "MPL"))}
    paths = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(directory / "ipython"), "JUPYTER_RUNTIME_DIR": str(directory)}
    client = NotebookClient(book, timeout=CELL_S, resources={"metadata": {"path": str(directory)}})
    client.execute(env={**inherited, **paths, **environment})
    return book


def printed(book: nbformat.NotebookNode) -> str:
    """All that its cells printed or drew."""
    return "\n".join(json.dumps(cell.get("outputs", []), ensure_ascii=False) for cell in book.cells)
