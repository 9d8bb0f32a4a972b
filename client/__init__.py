"""A client of the service, for programs and for the command line (`python -m client --help`).

    from client import Client

    with Client("http://localhost:8080") as client:
        print(client.predict("Shares in the bank fell.").label)

It imports no code of the service; both follow openapi.yaml.
"""

from client.async_client import AsyncClient
from client.client import Client
from client.errors import (
    AnswerError,
    BadRequest,
    BadText,
    BrokenAnswer,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    NoAnswer,
    NotOurService,
    Overloaded,
    ServiceFault,
    StreamCut,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from client.models import Explanation, Info, Limits, Outcome, Prediction, Score, Sentence, Span, TextError
from client.transport.retry import NEVER, Clock, Retry
from client.transport.sagemaker import SageMakerTransport

# fmt: off
__all__ = [
    "NEVER", "AnswerError", "AsyncClient", "BadRequest", "BadText", "BrokenAnswer", "Client", "ClientError", "Clock",
    "ConfigurationError", "ConnectionFailed", "DeadlineExceeded", "Explanation", "Info", "Limits", "NoAnswer",
    "NotOurService", "Outcome", "Overloaded", "Prediction", "Retry", "SageMakerTransport", "Score", "Sentence",
    "ServiceFault", "Span", "StreamCut", "TextError", "TimedOut", "TooLarge", "Unauthorized", "Unavailable",
    "Unsupported",
]
