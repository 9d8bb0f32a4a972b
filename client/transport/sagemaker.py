"""Asking a SageMaker endpoint: boto3's `invoke_endpoint` carries the calls, `/invocations` of the service answers them.

An endpoint passes on one path only. Its answers have labels and scores, but neither tokens nor "unsure"; there is no
/info, readiness, metrics nor two-way stream, and of the options only `top_k` and `on_long` ("windows", "truncate").
Needs `boto3`, which is imported with the first `SageMakerTransport`; credentials come from where boto3 looks for them.

Contract: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import TypeAdapter, ValidationError

from client.errors import BrokenAnswer, ClientError, ConfigurationError, Unauthorized, Unsupported
from client.models import Limits, Outcome, Prediction, Score, TextError
from client.transport.http import CONNECT_S, Transport, cut, refused
from client.transport.http import slow as too_slow
from client.transport.wire import Call, Dialect, Options, Reply, counted, encode, raised

JSON_LINES = "application/jsonlines"
MAX_BODY_BYTES = 5_000_000
"""Below the 6 MB that older endpoints and the service itself take."""

ANSWER_S = 60.0
"""After so long SageMaker itself gives up on the container."""
READ_S = 70.0
"""Longer than that, so that its error arrives."""

THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "ModelNotReadyException"})
STATUS_OF_CODE = {
    **dict.fromkeys(THROTTLED, 429),
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
    "InternalDependencyException": 503,
    "InternalFailure": 503,
}
"""Of SageMaker's own errors: those that pass."""

DENIED = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "UnrecognizedClientException",
    }
)

_SCORES = TypeAdapter(list[Score])


class _Endpoint:
    """`/invocations` in Hugging Face's form, a text a line."""

    def predict(self, text: str, options: Options) -> Call:
        return self.batch([text], options)

    def read_prediction(self, reply: Reply, where: str) -> Prediction:
        [outcome] = self.read_batch(reply, where, 1)
        if isinstance(outcome, TextError):
            raise raised(outcome, where)
        return outcome

    def batch(self, texts: Sequence[str], options: Options) -> Call:
        for name in ("timeout_ms", "spans", "explain"):
            if getattr(options, name):
                raise Unsupported(f"{name}: a SageMaker endpoint has no such option; ask the service itself")
        if options.on_long == "error":
            raise Unsupported('on_long="error": a SageMaker endpoint knows "windows" and "truncate" only')
        parameters: dict[str, Any] = {"top_k": options.top_k}
        if options.on_long == "truncate":
            parameters["truncation"] = True
        lines = [encode({"inputs": text, "parameters": parameters}) for text in texts]
        return Call("POST", "/invocations", b"\n".join(lines), JSON_LINES, JSON_LINES)

    def read_batch(self, reply: Reply, where: str, count: int) -> list[Outcome]:
        return counted([_outcome(line, where) for line in reply.body.split(b"\n") if line.strip()], where, count)

    def info(self) -> Call:
        raise Unsupported("a SageMaker endpoint has no /info; describe the endpoint, or ask the service itself")

    def ready(self) -> Call:
        raise Unsupported("SageMaker asks for readiness itself; wait for EndpointStatus InService")

    def metrics(self) -> Call:
        raise Unsupported("a SageMaker endpoint has no /metrics; see CloudWatch, or ask the service itself")

    def limits(self) -> Limits | None:
        return Limits(max_body_bytes=MAX_BODY_BYTES)


def _outcome(line: bytes, where: str) -> Outcome:
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            return TextError.model_validate(value)
        scores = _SCORES.validate_python(value)
        return Prediction(label=scores[0].label, score=scores[0].score, scores=scores)
    except (ValueError, ValidationError, IndexError):
        raise BrokenAnswer(
            f"{where}: a line that is no list of labels and scores; does the endpoint run this service's image?"
        ) from None


class SageMakerTransport:
    """Calls through an endpoint.

    Args:
        endpoint: its name.
        region: None: boto3's default.
        client: a boto3 client for "sagemaker-runtime" of your own, which `close` leaves open; None: one is made.
        **more: further arguments of `invoke_endpoint`, for instance TargetVariant.

    Raises:
        ConfigurationError: boto3 is not installed, or knows no region.
    """

    dialect: Dialect = _Endpoint()

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

    def send(self, call: Call, timeout_s: float) -> Reply:
        errors = self._errors
        try:
            answer = self._client.invoke_endpoint(
                EndpointName=self._endpoint,
                Body=call.body,
                ContentType=call.content_type,
                Accept=call.accept,
                **self._more,
            )
            return Reply(200, answer["Body"].read())
        except errors.ClientError as exc:
            return self._reply(exc)
        except (errors.NoCredentialsError, errors.PartialCredentialsError) as exc:
            raise ConfigurationError(f"{self.where}: {exc}; see boto3's credentials") from exc
        except (errors.ConnectTimeoutError, errors.EndpointConnectionError) as exc:
            raise refused(self.where, exc) from exc
        except errors.ReadTimeoutError as exc:
            raise too_slow(self.where, READ_S) from exc
        except errors.HTTPClientError as exc:
            raise cut(self.where, exc) from exc
        except errors.BotoCoreError as exc:
            raise ConfigurationError(f"{self.where}: {exc}") from exc

    def _reply(self, error: Any) -> Reply:
        """The container's own answer out of SageMaker's error, or what SageMaker itself has to say."""
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code == "ModelError" and error.response.get("OriginalStatusCode"):
            return Reply(int(error.response["OriginalStatusCode"]), error.response.get("OriginalMessage", "").encode())
        if code == "ModelError" and "timed out" in message:
            raise too_slow(self.where, ANSWER_S) from error
        if code in STATUS_OF_CODE or code == "ModelError" or _status(error) >= 500:
            return Reply(STATUS_OF_CODE.get(code, 503), f"{code}: {message}".encode())
        if code in DENIED:
            raise Unauthorized(
                f"{self.where}: {code}: {message}; the credentials need sagemaker:InvokeEndpoint", status=403
            ) from error
        raise _said(self.where, code, message) from error

    def close(self) -> None:
        if self._own:
            self._client.close()


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _said(where: str, code: str, message: str) -> ClientError:
    return ConfigurationError(f"{where}: {code}: {message}; check the endpoint's name and region")


class InThreads:
    """A transport that blocks, for an event loop."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.dialect, self.where = transport.dialect, transport.where

    async def send(self, call: Call, timeout_s: float) -> Reply:
        return await asyncio.to_thread(self._transport.send, call, timeout_s)

    async def close(self) -> None:
        await asyncio.to_thread(self._transport.close)


def endpoint_of(url: str) -> SageMakerTransport | None:
    """The transport that sagemaker://ENDPOINT[?region=REGION] names; None for any other URL."""
    if not url.startswith("sagemaker:"):
        return None
    parts = urlsplit(url)
    if not parts.netloc:
        raise ConfigurationError(f"{url!r} names no endpoint; for instance sagemaker://news?region=eu-west-1")
    return SageMakerTransport(parts.netloc, parse_qs(parts.query).get("region", [None])[0])
