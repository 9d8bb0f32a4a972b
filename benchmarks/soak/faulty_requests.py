"""Faulty requests, clients that leave, deadlines that cannot be met, and texts on which the model fails."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.faulty_service import MEMORY, NAN, RAISE
from benchmarks.soak import answers
from benchmarks.soak.answers import Expected
from benchmarks.soak.requests import JSON_LINES, Leaving, Maker, RequestMaker, Right, SoakRequest
from benchmarks.tools.http1 import chunk, get, post, post_chunks, post_json

HEAD_BYTES = 40_000
"""Size of a header; more than a head may have."""

UNKNOWN_MODEL = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
NOT_JSON = (b"{", b'{"text": "a"', b"\xff\xfe", b'{"text": nope}', b"[" * 3000)
WRONG_TYPES: tuple[tuple[str, object], ...] = (
    ("/predict", {"text": 5}),
    ("/predict", {"text": None}),
    ("/predict", {"text": "a", "surprise": 1}),
    ("/predict", {"text": "a", "top_k": "2"}),
    ("/predict", {"text": "a", "timeout_ms": 10**9}),
    ("/batch", {"texts": "a"}),
    ("/batch", {"texts": []}),
    ("/batch", {"texts": ["a", 1]}),
    ("/invocations", {"inputs": []}),
    ("/invocations", {"instances": [{"txt": "a"}]}),
    ("/classify", {"input": 3}),
    ("/", {"inputs": {"a": 1}}),
)
MEDIA = ("application/xml", "image/png", "", "application/x-www-form-urlencoded")
DECLARED_TOO_LARGE = post("/predict", b"").replace(b"Content-Length: 0", b"Content-Length: 1000000000000")
NOT_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),  # the first bytes of TLS
    b"HELLO\r\n\r\n",
    post("/predict", b"{}").replace(b"Content-Length: 2", b"Content-Length: two"),
)
JSON_PATHS, MEDIA_PATHS = ("/predict", "/batch", "/invocations", "/classify"), ("/predict", "/invocations", "/tokenize")


@dataclass(frozen=True)
class Refusal:
    """A kind of request that the service refuses."""

    share: float
    """Percent of all requests."""
    errors: Mapping[int, str]
    """The statuses that it may get, each with its kind of error."""
    wires: Sequence[bytes]
    last: bool = False
    """The service closes the connection after the answer."""


REFUSALS = {
    "not JSON": Refusal(0.5, {400: "invalid_json"}, [post(path, body) for path in JSON_PATHS for body in NOT_JSON]),
    # an empty body also lacks its fields
    "no body": Refusal(0.1, {400: "invalid_json", 422: "invalid_request"}, [post(path, b"") for path in JSON_PATHS]),
    "wrong type": Refusal(0.8, {422: "invalid_request"}, [post_json(path, body) for path, body in WRONG_TYPES]),
    "empty text": Refusal(0.3, {422: "empty_text"}, [post_json("/predict", {"text": " \n\t"})]),
    "too large, declared": Refusal(0.2, {413: "body_too_large"}, [DECLARED_TOO_LARGE], last=True),
    "wrong media type": Refusal(
        0.3, {415: "unsupported_media_type"}, [post(path, b"{}", media) for path in MEDIA_PATHS for media in MEDIA]
    ),
    "not acceptable": Refusal(
        0.2, {406: "not_acceptable"}, [post("/invocations", b'{"text": "a"}', headers={"Accept": "image/png"})]
    ),
    "not found": Refusal(
        0.25, {404: "not_found"}, [get("/nowhere"), post_json("/v2/models/other/infer", UNKNOWN_MODEL)]
    ),
    "wrong method": Refusal(0.15, {405: "method_not_allowed"}, [get("/predict")]),
    "not HTTP": Refusal(0.2, {400: "bad_request"}, NOT_HTTP, last=True),
    "too large a head": Refusal(
        0.1, {431: "headers_too_large"}, [post("/predict", b"{}", headers={"X-Filler": "a" * HEAD_BYTES})], last=True
    ),
}


def _error(kind: str) -> Right:
    return answers.error, [kind]


LATE = {504: _error("deadline_exceeded"), 429: _error("overloaded")}


class FaultyRequestMaker:
    """Makes requests that must be refused, or whose clients leave before the answer.

    Args:
        maker: Provides the texts.
    """

    def __init__(self, maker: RequestMaker) -> None:
        self._maker = maker
        self._rng = maker.rng

    def refused(self, kind: str) -> SoakRequest:
        refusal = REFUSALS[kind]
        right = {status: _error(error) for status, error in refusal.errors.items()}
        return SoakRequest(kind, self._rng.choice(refusal.wires), right, last=refusal.last)

    def too_large_in_chunks(self) -> SoakRequest:
        pieces = [b'{"text": "', *[b"a" * 8192] * (self._maker.model.max_body_bytes // 8192 + 2), b'"}']
        wire = post_chunks("/predict", pieces, "application/json")
        return SoakRequest("too large, in chunks", wire, {413: _error("body_too_large")}, last=True)

    def hopeless_deadline(self) -> SoakRequest:
        one = self._maker.one()
        wire = post_json("/predict", {"text": one.text, "timeout_ms": 1})
        return SoakRequest("deadline of 1 ms", wire, {200: (answers.predict, [one]), **LATE})

    def hopeless_batch(self) -> SoakRequest:
        some = self._maker.some()
        wire = post_json("/batch", {"texts": [one.text for one in some], "timeout_ms": 1})
        return SoakRequest("deadline of 1 ms, batch", wire, {200: (answers.batch, some), **LATE})

    def poisoned(self) -> SoakRequest:
        wire = self._predict(f" {self._rng.choice((RAISE, NAN))}")
        return SoakRequest("poisoned", wire, {500: _error("inference_failed")})

    def poisoned_batch(self) -> SoakRequest:
        some = self._maker.some()
        expected: list[Expected] = [*some]
        texts = [one.text for one in some]
        place = self._rng.randrange(len(texts))
        expected[place] = "inference_failed"
        texts[place] += f" {self._rng.choice((RAISE, NAN))}"
        if self._rng.random() < 0.5:
            return SoakRequest(
                "poisoned batch", post_json("/batch", {"texts": texts}), {200: (answers.batch, expected)}
            )
        body = "\n".join(json.dumps({"text": text}) for text in texts)
        wire = post("/invocations", body.encode(), JSON_LINES)
        return SoakRequest("poisoned lines", wire, {200: (answers.label_map_lines, expected)})

    def short_of_memory(self) -> SoakRequest:
        """Return a request whose text does not fit into memory in any batch of several; alone it is answered."""
        return SoakRequest("short of memory", self._predict(f" {MEMORY}"), {200: None})

    def leaves_in_head(self) -> SoakRequest:
        wire = self._predict()
        return self._leaves("leaves within the head", wire[: self._rng.randint(1, wire.index(b"\r\n\r\n"))])

    def leaves_in_body(self) -> SoakRequest:
        wire = self._predict()
        sent = self._rng.randint(wire.index(b"\r\n\r\n") + 4, len(wire) - 1)
        return self._leaves("leaves within the body", wire[:sent])

    def leaves_waiting(self) -> SoakRequest:
        one, many = self._maker.one().text, [each.text for each in self._maker.some(24)]
        forms: Sequence[tuple[str, object]] = (
            ("/predict", {"text": one}),
            ("/batch", {"texts": many}),
            ("/invocations", {"inputs": many}),
        )
        wire = post_json(*self._rng.choice(forms))
        return self._leaves("leaves while waiting", wire, Leaving(self._rng.uniform(0, 0.03)))

    def leaves_a_stream(self) -> SoakRequest:
        """Return a request whose client leaves during the answer; in half of the cases its body is incomplete, too."""
        lines = [json.dumps(self._maker.one().text).encode() + b"\n" for _ in range(self._rng.randint(80, 160))]
        wire = post_chunks("/batch", lines, "application/x-ndjson")
        if self._rng.random() < 0.5:
            wire = wire.removesuffix(chunk(b"")) + chunk(b'"half a li')
        return self._leaves("leaves within a stream", wire, Leaving(after_answer_began=True))

    def _predict(self, mark: str = "") -> bytes:
        return post_json("/predict", {"text": self._maker.one().text + mark})

    @staticmethod
    def _leaves(kind: str, wire: bytes, leaving: Leaving | None = None) -> SoakRequest:
        return SoakRequest(kind, wire, {}, leaving=leaving or Leaving())

    def makers(self) -> Sequence[Maker]:
        """Return the makers of faulty requests with their shares: together a twentieth of all requests."""
        return (
            *((partial(self.refused, kind), refusal.share) for kind, refusal in REFUSALS.items()),
            (self.too_large_in_chunks, 0.1),
            (self.hopeless_deadline, 0.4),
            (self.hopeless_batch, 0.2),
            (self.poisoned, 0.2),
            (self.poisoned_batch, 0.2),
            (self.short_of_memory, 0.1),
            (self.leaves_in_head, 0.1),
            (self.leaves_in_body, 0.2),
            (self.leaves_waiting, 0.4),
            (self.leaves_a_stream, 0.1),
        )
