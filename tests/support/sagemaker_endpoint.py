"""A stand-in for a SageMaker endpoint, between boto3's `sagemaker-runtime` client and the container.

As AWS does, it passes to the container only the body, Content-Type, Accept and Custom-Attributes of a call to
`POST /endpoints/NAME/invocations`, and to the caller only the body, Content-Type and Custom-Attributes of the answer.
An error of the container becomes a ModelError (424) with its status and body, an unknown endpoint a ValidationError
(400), and a body above 6 MiB is refused before it reaches the container (413).

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

NAME = "articles"
VARIANT = "AllTraffic"
MAX_BODY_BYTES = 6_291_456
INVOCATION_S = 60.0
PASSED = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes")


class _Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    container: str

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if self.path != f"/endpoints/{NAME}/invocations":
            self._error(400, "ValidationError", {"Message": f"Endpoint of {self.path} not found."})
        elif length > MAX_BODY_BYTES:
            self._answer(413, {"Content-Type": "text/plain"}, b"HTTP content length exceeded 6291456 bytes.")
        else:
            self._invoke(body)

    def _invoke(self, body: bytes) -> None:
        headers = {name: self.headers[name] for name in PASSED if name in self.headers}
        with httpx.Client(trust_env=False, timeout=INVOCATION_S, headers={"Accept": ""}) as client:
            answer = client.post(f"{self.container}/invocations", content=body, headers=headers)
        if answer.is_error:
            message = {
                "Message": f"Received client error ({answer.status_code}) from primary with message {answer.text!r}",
                "OriginalStatusCode": answer.status_code,
                "OriginalMessage": answer.text,
                "LogStreamArn": "arn:aws:logs:us-east-1:123456789012:log-group:/aws/sagemaker/Endpoints/articles",
            }
            self._error(424, "ModelError", message)
            return
        passed = {name: answer.headers[name] for name in PASSED if name in answer.headers}
        self._answer(200, passed | {"x-Amzn-Invoked-Production-Variant": VARIANT}, answer.content)

    def _error(self, status: int, kind: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "x-amzn-errortype": kind}
        self._answer(status, headers, json.dumps(body).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the calls out of the tests' output."""


@contextmanager
def sagemaker_endpoint(container: str) -> Iterator[str]:
    """Run the endpoint `NAME` of this container; yield the `endpoint_url` for a runtime client."""
    handler = type("Endpoint", (_Endpoint,), {"container": container})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="sagemaker-endpoint")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
