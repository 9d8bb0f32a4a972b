"""Calls to a SageMaker endpoint, by boto3's `invoke_endpoint`.

An endpoint passes on one path, `/invocations`, which takes Hugging Face's form: a text a line. So calls and replies are
translated here. Answers have labels and scores, but neither tokens nor "unsure"; of the options there are `top_k` and
`on_long` ("windows", "truncate"). The first `SageMakerTransport` imports boto3, which looks for credentials as usual.

Contract: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import TypeAdapter

from client.errors import BrokenAnswer, ConfigurationError, Unauthorized, Unsupported
from client.models import Limits, Score
from client.threads import in_thread
from client.transport.http import CONNECT_S, cut, refused, slow
from client.transport.messages import STATUS, Call, Reply, encode

JSON_LINES = "application/jsonlines"
MAX_BODY_BYTES = 5_000_000  # below the 6 MB that older endpoints and the service itself take
ANSWER_S = 60.0  # after so long, SageMaker gives up on the container
READ_S = 70.0  # longer, so that SageMaker's error arrives

UNSUPPORTED = {
    "/info": "a SageMaker endpoint has no /info; describe the endpoint, or ask the service itself",
    "/readyz": "SageMaker checks readiness itself; wait for EndpointStatus InService",
    "/metrics": "a SageMaker endpoint has no /metrics; see CloudWatch, or ask the service itself",
}
THROTTLED = ("ThrottlingException", "TooManyRequestsException", "ModelNotReadyException")
UNAVAILABLE = (
    *("ServiceUnavailable", "ServiceUnavailableException", "InternalDependencyException", "InternalFailure"),
    "ModelError",  # the container's, without an answer of its own
)

DENIED = (
    *("AccessDeniedException", "ExpiredTokenException", "InvalidClientTokenId"),
    *("InvalidSignatureException", "UnrecognizedClientException"),
)
_SCORES = TypeAdapter(list[Score])


class SageMakerTransport:
    """Calls through a SageMaker endpoint.

    Args:
        endpoint: its name.
        region: the region; None for boto3's default.
        client: a boto3 client for "sagemaker-runtime" of the caller's own, which `close` leaves open; None to make one.
        **more: further arguments of `invoke_endpoint`, for instance TargetVariant.

    Raises:
        ConfigurationError: boto3 is not installed, or knows no region.
    """

    limits: Limits | None = Limits(max_body_bytes=MAX_BODY_BYTES)

    def __init__(self, endpoint: str, region: str | None = None, client: Any = None, **more: str) -> None:
        self.where = f"SageMaker endpoint {endpoint}"
        self._endpoint, self._more = endpoint, more
        try:
            import boto3
            from botocore import exceptions
            from botocore.config import Config
        except ImportError:
            raise ConfigurationError(f"{self.where}: needs boto3 (`pip install boto3`)") from None
        self._errors, self._own = exceptions, client is None
        try:
            # one try: this package retries by itself
            config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 1})
            self._client = client or boto3.client("sagemaker-runtime", region_name=region, config=config)
        except self._errors.BotoCoreError as exc:
            raise ConfigurationError(
                f"{self.where}: {exc}; for instance sagemaker://{endpoint}?region=eu-west-1"
            ) from exc

    async def send(self, call: Call, timeout_s: float) -> Reply:
        if call.content is None:
            raise Unsupported(UNSUPPORTED[call.path])
        body = _lines(dict(call.content))
        reply = await in_thread(lambda: self._invoke(body))
        if reply.status != 200:
            return reply
        results = [self._result(line) for line in reply.body.split(b"\n") if line.strip()]
        if call.path == "/batch":
            return Reply(200, encode({"results": results}))
        if len(results) != 1:
            raise BrokenAnswer(f"{self.where}: {len(results)} results came for one text")
        return Reply(STATUS.get(results[0]["kind"], 422) if "error" in results[0] else 200, encode(results[0]))

    def _result(self, line: bytes) -> dict[str, Any]:
        """Return the line in the form of `/batch`."""
        try:
            value = json.loads(line)
            if isinstance(value, dict) and {"error", "kind"} <= set(value):
                return {"request_id": "", **value}
            scores = [score.model_dump() for score in _SCORES.validate_python(value)]
            return {**scores[0], "scores": scores}
        except (ValueError, IndexError):
            raise BrokenAnswer(
                f"{self.where}: a line is no list of labels and scores; does the endpoint run this service's image?"
            ) from None

    def _invoke(self, body: bytes) -> Reply:
        errors = self._errors
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self._endpoint, Body=body, ContentType=JSON_LINES, Accept=JSON_LINES, **self._more
            )
            return Reply(200, answer["Body"].read())
        except errors.ClientError as exc:
            return self._reply(exc)
        except (errors.NoCredentialsError, errors.PartialCredentialsError) as exc:
            raise ConfigurationError(f"{self.where}: {exc}; see boto3's credentials") from exc
        except (errors.ConnectTimeoutError, errors.EndpointConnectionError) as exc:
            raise refused(self.where, exc) from exc
        except errors.ReadTimeoutError as exc:
            raise slow(self.where, READ_S) from exc
        except errors.HTTPClientError as exc:
            raise cut(self.where, exc) from exc
        except errors.BotoCoreError as exc:
            raise ConfigurationError(f"{self.where}: {exc}") from exc

    def _reply(self, error: Any) -> Reply:
        """Return the container's own answer out of SageMaker's error, or SageMaker's."""
        response = error.response
        code, message = response["Error"]["Code"], response["Error"].get("Message", "")
        if code == "ModelError" and response.get("OriginalStatusCode"):
            return Reply(int(response["OriginalStatusCode"]), response.get("OriginalMessage", "").encode())
        if code == "ModelError" and "timed out" in message:
            raise slow(self.where, ANSWER_S) from error
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in THROTTLED + UNAVAILABLE or status >= 500:
            return Reply(429 if code in THROTTLED else 503, f"{code}: {message}".encode())
        said = f"{self.where}: {code}: {message}"
        if code in DENIED:
            raise Unauthorized(f"{said}; the credentials need sagemaker:InvokeEndpoint", status=403) from error
        raise ConfigurationError(f"{said}; check the endpoint's name and region") from error

    async def close(self) -> None:
        if self._own:
            self._client.close()


def _lines(content: dict[str, Any]) -> bytes:
    """Return the texts and options of a call for `/invocations`. Raises Unsupported: an option does not exist there."""
    texts = content.pop("texts", None) or [content.pop("text")]
    parameters = {"top_k": content.pop("top_k", None)}
    on_long = content.pop("on_long", None)
    if on_long == "error":
        raise Unsupported('on_long="error": a SageMaker endpoint knows "windows" and "truncate" only')
    if on_long == "truncate":
        parameters["truncation"] = True
    for name in content:
        raise Unsupported(f"{name}: a SageMaker endpoint has no such option; ask the service itself")
    return b"\n".join(encode({"inputs": text, "parameters": parameters}) for text in texts)


def endpoint_of(url: str) -> SageMakerTransport | None:
    """Return the transport for sagemaker://ENDPOINT[?region=REGION], None for any other URL."""
    if not url.startswith("sagemaker:"):
        return None
    parts = urlsplit(url)
    if not parts.netloc:
        raise ConfigurationError(f"{url!r} names no endpoint; for instance sagemaker://news?region=eu-west-1")
    return SageMakerTransport(parts.netloc, parse_qs(parts.query).get("region", [None])[0])
