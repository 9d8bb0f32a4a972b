"""Requests as callers send them, to every family of routes, each with the answers that it may get."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soak import answers
from benchmarks.soak.answers import Expected, KnownText, Read
from benchmarks.tools.http1 import get, post, post_chunks, post_json

Right = tuple[Read, Sequence[Expected]]
"""The reader of an answer's body, and the content that the body must have."""

JSON, JSON_LINES, CSV, PLAIN = "application/json", "application/jsonlines", "text/csv", "text/plain"
ONE_TEXT_FORMS: tuple[tuple[str, Read], ...] = (
    (JSON, answers.label_map),
    (JSON_LINES, answers.label_map_lines),
    (CSV, answers.rows),
    (PLAIN, answers.labels),
)
PROBES = ("/livez", "/readyz", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready", "/info", "/v2")


@dataclass(frozen=True)
class Leaving:
    """The client closes the connection without an answer."""

    after_s: float = 0.0
    after_answer_began: bool = False


@dataclass(frozen=True)
class SoakRequest:
    """One request of a soak."""

    kind: str
    wire: bytes
    right: Mapping[int, Right | None]
    """The statuses that it may get; None: any body will do."""
    leaving: Leaving | None = None
    last: bool = False
    """The client closes the connection after the answer."""


@dataclass(frozen=True)
class ServedModel:
    """The facts about the service that the makers of requests need."""

    name: str
    labels: Sequence[str]
    max_body_bytes: int


Maker = tuple[Callable[[], SoakRequest], float]
"""Makes a request, and the share of all requests that it makes."""


class RequestMaker:
    """Makes correct requests.

    Args:
        known: The texts that may be sent.
        model: The model that is served.
        rng: Decides what is sent.
    """

    def __init__(self, known: Sequence[KnownText], model: ServedModel, rng: random.Random) -> None:
        self.known, self.model, self.rng = known, model, rng
        self._frequent = known[: (len(known) // 20) or 1]  # sent often, so that equal texts meet in a batch

    def one(self) -> KnownText:
        """Return a text."""
        return self.rng.choice(self._frequent if self.rng.random() < 0.1 else self.known)

    def some(self, most: int = 8) -> list[KnownText]:
        """Return two or more texts."""
        return [self.one() for _ in range(self.rng.randint(2, most))]

    def predict(self) -> SoakRequest:
        return self._ok("predict", post_json("/predict", {"text": (one := self.one()).text}), answers.predict, [one])

    def predict_options(self) -> SoakRequest:
        one, rng = self.one(), self.rng
        body = {"text": one.text, "top_k": rng.randint(1, 4), "timeout_ms": 50_000, "spans": rng.random() < 0.5}
        wire = post_json("/predict", body, {"X-Request-ID": f"soak-{rng.randrange(10**9)}"})
        return self._ok("predict with options", wire, answers.predict, [one])

    def predict_and_close(self) -> SoakRequest:
        one = self.one()
        wire = post_json("/predict", {"text": one.text}, {"Connection": "close"})
        return SoakRequest("predict, then close", wire, {200: (answers.predict, [one])}, last=True)

    def batch(self) -> SoakRequest:
        expected, texts = self._with_error(self.some(), lambda one: one.text, "empty_text", " ")
        return self._ok("batch", post_json("/batch", {"texts": texts}), answers.batch, expected)

    def lines(self) -> SoakRequest:
        def line(one: KnownText) -> str:
            return json.dumps(one.text if self.rng.random() < 0.5 else {"text": one.text, "top_k": 2})

        expected, lines = self._with_error(self.some(16), line, "invalid_json", '{"text": ')
        wire = post_chunks("/batch", [f"{each}\n".encode() for each in lines], "application/x-ndjson")
        return self._ok("batch of lines", wire, answers.result_lines, expected)

    def _with_error(
        self, some: Sequence[KnownText], shown: Callable[[KnownText], str], error: str, faulty: str
    ) -> tuple[list[Expected], list[str]]:
        """Return the expected answers and the texts to send; in a fifth of all cases one of them is faulty."""
        expected: list[Expected] = [*some]
        sent = [shown(one) for one in some]
        if self.rng.random() < 0.2:
            place = self.rng.randrange(len(some))
            expected.insert(place, error)
            sent.insert(place, faulty)
        return expected, sent

    def invocation(self) -> SoakRequest:
        """Return a request in one of SageMaker's forms."""
        forms = (self._one_text, self._inputs, self._instances, self._json_lines, self._csv)
        return self.rng.choice(forms)()

    def _one_text(self) -> SoakRequest:
        one = self.one()
        media, body = self.rng.choice(((JSON, json.dumps({"text": one.text})), (PLAIN, one.text)))
        accept, read = self.rng.choice(ONE_TEXT_FORMS)
        wire = post("/invocations", body.encode(), media, {"Accept": accept})
        return self._ok(f"invocations, {media} to {accept}", wire, read, [one])

    def _inputs(self) -> SoakRequest:
        some = self.some()
        texts = [one.text for one in some]
        forms: tuple[tuple[dict[str, Any], Read, Sequence[KnownText]], ...] = (
            ({"inputs": texts[0], "parameters": {"top_k": 3}}, answers.pipeline_one, some[:1]),
            ({"inputs": texts, "parameters": {"top_k": None}}, answers.pipeline_many, some),
            ({"inputs": texts}, answers.pipeline_best, some),
        )
        body, read, expected = self.rng.choice(forms)
        return self._ok("invocations, inputs", post_json("/invocations", body), read, expected)

    def _instances(self) -> SoakRequest:
        some = self.some()
        instances = [one.text if self.rng.random() < 0.5 else {"text": one.text} for one in some]
        wire = post_json("/invocations", {"instances": instances})
        return self._ok("invocations, instances", wire, answers.predictions, some)

    def _json_lines(self) -> SoakRequest:
        some = self.some()
        body = "\n".join(json.dumps({"text": one.text}) for one in some)
        wire = post("/invocations", body.encode(), JSON_LINES)
        return self._ok("invocations, lines", wire, answers.label_map_lines, some)

    def _csv(self) -> SoakRequest:
        some = self.some()
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\n").writerows([one.text] for one in some)
        accept, read = self.rng.choice(((CSV, answers.rows), (JSON, answers.label_maps)))
        wire = post("/invocations", file.getvalue().encode(), CSV, {"Accept": accept})
        return self._ok(f"invocations, csv to {accept}", wire, read, some)

    def tokenize(self) -> SoakRequest:
        return SoakRequest("tokenize", post_json("/tokenize", {"text": self.one().text}), {200: None})

    def vllm(self) -> SoakRequest:
        some, path = self.some(4), self.rng.choice(("/classify", "/v1/classify"))
        wire = post_json(path, {"input": [one.text for one in some], "model": "any"})
        return self._ok(path, wire, answers.vllm(self.model.labels), some)

    def endpoint(self) -> SoakRequest:
        return self._ok("/", post_json("/", {"inputs": [(one := self.one()).text]}), answers.pipeline_many, [one])

    def tensor(self) -> SoakRequest:
        some, path = self.some(4), f"/v2/models/{self.model.name}/infer"
        read = answers.tensors(self.model.labels)
        tensor: dict[str, Any] = {"name": "text", "shape": [len(some)], "datatype": "BYTES"}
        if self.rng.random() < 0.5:
            tensor["data"] = [one.text for one in some]
            return self._ok("/v2 infer", post_json(path, {"inputs": [tensor]}), read, some)
        tail = b"".join(len(text).to_bytes(4, "little") + text for text in (one.text.encode() for one in some))
        tensor["parameters"] = {"binary_data_size": len(tail)}
        head = json.dumps({"inputs": [tensor]}).encode()
        wire = post(path, head + tail, "application/octet-stream", {"Inference-Header-Content-Length": str(len(head))})
        return self._ok("/v2 infer, binary", wire, read, some)

    def probe(self) -> SoakRequest:
        path = self.rng.choice((*PROBES, "/execution-parameters", f"/v2/models/{self.model.name}"))
        return SoakRequest(path, get(path), {200: None})

    @staticmethod
    def _ok(kind: str, wire: bytes, read: Read, expected: Sequence[Expected]) -> SoakRequest:
        return SoakRequest(kind, wire, {200: (read, expected)})

    def makers(self) -> Sequence[Maker]:
        """Return the makers of correct requests with their shares."""
        return (
            (self.predict, 38.0),
            (self.predict_options, 8.0),
            (self.predict_and_close, 1.0),
            (self.batch, 8.0),
            (self.lines, 4.0),
            (self.invocation, 16.0),
            (self.tokenize, 3.0),
            (self.vllm, 4.0),
            (self.endpoint, 3.0),
            (self.tensor, 4.0),
            (self.probe, 6.0),
        )


def stream(makers: Sequence[Maker], count: int, rng: random.Random) -> Iterator[SoakRequest]:
    """Yield `count` requests, each made when it is needed."""
    ways, shares = zip(*makers, strict=True)
    for make in rng.choices(ways, shares, k=count):
        yield make()
