"""Requests as callers send them, over every family of routes, each with the answers that it may get."""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.soak import answers
from benchmarks.soak.answers import Expected, Known, Read
from benchmarks.soak.wire import get, post, post_chunks, post_json

Right = tuple[Read, Sequence[Expected]]
"""How a body is read, and what it has to say."""


@dataclass(frozen=True)
class Leaving:
    """The client hangs up without an answer."""

    after_s: float = 0.0
    after_answer_began: bool = False


@dataclass(frozen=True)
class Ask:
    """One request."""

    kind: str
    wire: bytes
    right: Mapping[int, Right | None]
    """What may be answered, by status; None: the status says it all."""
    leaving: Leaving | None = None
    last: bool = False
    """Close the connection after the answer."""


@dataclass(frozen=True)
class Model:
    """What asks need to know of the service."""

    name: str
    labels: Sequence[str]
    max_body_bytes: int


class Caller:
    """Makes right requests of one kind after the other.

    Args:
        known: texts that may be asked.
        model: of the service.
        rng: decides what is asked.
    """

    def __init__(self, known: Sequence[Known], model: Model, rng: random.Random) -> None:
        self.known, self.model, self.rng = known, model, rng
        self._few = (len(known) // 20) or 1  # of them some are asked again and again: equal texts in one batch

    def one(self) -> Known:
        return self.rng.choice(self.known[: self._few] if self.rng.random() < 0.1 else self.known)

    def some(self, most: int = 8) -> list[Known]:
        return [self.one() for _ in range(self.rng.randint(2, most))]

    def predict(self) -> Ask:
        one = self.one()
        return Ask("predict", post_json("/predict", {"text": one.text}), {200: (answers.predict, [one])})

    def predict_options(self) -> Ask:
        one = self.one()
        body: dict[str, Any] = {"text": one.text, "top_k": self.rng.randint(1, 4), "timeout_ms": 50_000}
        body["spans"] = self.rng.random() < 0.5
        wire = post_json("/predict", body, {"X-Request-ID": f"soak-{self.rng.randrange(10**9)}"})
        return Ask("predict with options", wire, {200: (answers.predict, [one])})

    def predict_and_close(self) -> Ask:
        one = self.one()
        wire = post_json("/predict", {"text": one.text}, {"Connection": "close"})
        return Ask("predict, then close", wire, {200: (answers.predict, [one])}, last=True)

    def batch(self) -> Ask:
        some: list[Expected] = [*self.some()]
        texts = [one.text for one in some if isinstance(one, Known)]
        if self.rng.random() < 0.2:
            place = self.rng.randrange(len(some))
            some.insert(place, "empty_text")
            texts.insert(place, " ")
        return Ask("batch", post_json("/batch", {"texts": texts}), {200: (answers.batch, some)})

    def lines(self) -> Ask:
        some: list[Expected] = [*self.some(16)]
        lines = [
            json.dumps(one.text if self.rng.random() < 0.5 else {"text": one.text, "top_k": 2}).encode()
            for one in some
            if isinstance(one, Known)
        ]
        if self.rng.random() < 0.2:
            place = self.rng.randrange(len(some))
            some.insert(place, "invalid_json")
            lines.insert(place, b'{"text": ')
        wire = post_chunks("/batch", [line + b"\n" for line in lines], "application/x-ndjson")
        return Ask("batch of lines", wire, {200: (answers.result_lines, some)})

    def invocation(self) -> Ask:
        """One of SageMaker's forms."""
        return self.rng.choice((self._as_text, self._as_inputs, self._as_instances, self._as_lines, self._as_csv))()

    def _as_text(self) -> Ask:
        one = self.one()
        came, body = self.rng.choice(
            (("application/json", json.dumps({"text": one.text}).encode()), ("text/plain", one.text.encode()))
        )
        accept, read = self.rng.choice(
            (
                ("application/json", answers.label_map),
                ("application/jsonlines", answers.label_map_lines),
                ("text/csv", answers.rows),
                ("text/plain", answers.labels),
            )
        )
        wire = post("/invocations", body, came, {"Accept": accept})
        return Ask(f"invocations, {came} to {accept}", wire, {200: (read, [one])})

    def _as_inputs(self) -> Ask:
        some = self.some()
        texts = [one.text for one in some]
        how = self.rng.randrange(3)
        if how == 0:
            body: dict[str, Any] = {"inputs": texts[0], "parameters": {"top_k": 3}}
            return self._inputs(body, answers.pipeline_one, some[:1])
        if how == 1:
            return self._inputs({"inputs": texts, "parameters": {"top_k": None}}, answers.pipeline_many, some)
        return self._inputs({"inputs": texts}, answers.pipeline_best, some)

    def _inputs(self, body: dict[str, Any], read: Read, some: Sequence[Known]) -> Ask:
        return Ask("invocations, inputs", post_json("/invocations", body), {200: (read, some)})

    def _as_instances(self) -> Ask:
        some = self.some()
        instances = [one.text if self.rng.random() < 0.5 else {"text": one.text} for one in some]
        wire = post_json("/invocations", {"instances": instances})
        return Ask("invocations, instances", wire, {200: (answers.predictions, some)})

    def _as_lines(self) -> Ask:
        some = self.some()
        body = b"\n".join(json.dumps({"text": one.text}).encode() for one in some)
        return Ask(
            "invocations, lines",
            post("/invocations", body, "application/jsonlines"),
            {200: (answers.label_map_lines, some)},
        )

    def _as_csv(self) -> Ask:
        some = self.some()
        file = io.StringIO(newline="")
        csv.writer(file, lineterminator="\n").writerows([one.text] for one in some)
        accept, read = self.rng.choice((("text/csv", answers.rows), ("application/json", answers.label_map_list)))
        wire = post("/invocations", file.getvalue().encode(), "text/csv", {"Accept": accept})
        return Ask(f"invocations, csv to {accept}", wire, {200: (read, some)})

    def tokenize(self) -> Ask:
        return Ask("tokenize", post_json("/tokenize", {"text": self.one().text}), {200: None})

    def vllm(self) -> Ask:
        some, path = self.some(4), self.rng.choice(("/classify", "/v1/classify"))
        wire = post_json(path, {"input": [one.text for one in some], "model": "any"})
        return Ask(path, wire, {200: (answers.vllm(self.model.labels), some)})

    def endpoint(self) -> Ask:
        one = self.one()
        wire = post_json("/", {"inputs": [one.text]})
        return Ask("/", wire, {200: (answers.pipeline_many, [one])})

    def tensor(self) -> Ask:
        some = self.some(4)
        tensor: dict[str, Any] = {"name": "text", "shape": [len(some)], "datatype": "BYTES"}
        path = f"/v2/models/{self.model.name}/infer"
        right = {200: (answers.tensors(self.model.labels), some)}
        if self.rng.random() < 0.5:
            tensor["data"] = [one.text for one in some]
            return Ask("/v2 infer", post_json(path, {"inputs": [tensor]}), right)
        encoded = [one.text.encode() for one in some]
        tail = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        tensor["parameters"] = {"binary_data_size": len(tail)}
        head = json.dumps({"inputs": [tensor]}).encode()
        wire = post(path, head + tail, "application/octet-stream", {"Inference-Header-Content-Length": str(len(head))})
        return Ask("/v2 infer, binary", wire, right)

    def watcher(self) -> Ask:
        """What probes and scrapers ask."""
        paths = ("/livez", "/readyz", "/ping", "/metrics", "/v2/health/live", "/v2/health/ready", "/info")
        path = self.rng.choice((*paths, "/execution-parameters", "/v2", f"/v2/models/{self.model.name}"))
        return Ask(path, get(path), {200: None})

    def kinds(self) -> Sequence[tuple[Callable[[], Ask], float]]:
        """Ways to ask, with their shares."""
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
            (self.watcher, 6.0),
        )


def stream(makers: Sequence[tuple[Callable[[], Ask], float]], count: int, rng: random.Random) -> Iterator[Ask]:
    """`count` requests, each made when it is asked for."""
    ways, shares = zip(*makers, strict=True)
    for make in rng.choices(ways, shares, k=count):
        yield make()
