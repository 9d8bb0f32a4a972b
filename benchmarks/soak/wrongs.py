"""Requests that are wrong, callers that leave, deadlines that cannot be met, and texts on which the model fails."""

import json
from collections.abc import Callable, Sequence

from benchmarks.faulty_service import MEMORY, NAN, RAISE
from benchmarks.soak import answers
from benchmarks.soak.answers import Expected, Known
from benchmarks.soak.asks import Ask, Caller, Leaving, Right
from benchmarks.soak.wire import chunk, get, post, post_chunks, post_json

FAR_TOO_LARGE = 10**12
HEAD_BYTES = 40_000
"""More than a head may have."""


def _error(*kinds: str) -> Right:
    return answers.error, list(kinds)


class Troublemaker:
    """Makes requests that may not be answered by 200, or not at all.

    Args:
        caller: whose texts are used.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._rng = caller.rng

    def not_json(self) -> Ask:
        body = self._rng.choice((b"", b"{", b'{"text": "a"', b"\xff\xfe", b'{"text": nope}', b"[" * 3000))
        path = self._rng.choice(("/predict", "/batch", "/invocations", "/classify"))
        kinds = {400: _error("invalid_json"), 422: _error("invalid_request")}  # an empty body lacks its fields
        return Ask("not JSON", post(path, body), kinds if not body else {400: kinds[400]})

    def wrong_type(self) -> Ask:
        path, body = self._rng.choice(
            (
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
        )
        return Ask("wrong type", post_json(path, body), {422: _error("invalid_request")})

    def empty_text(self) -> Ask:
        return Ask("empty text", post_json("/predict", {"text": " \n\t"}), {422: _error("empty_text")})

    def too_large(self) -> Ask:
        """By its own word, and before its body is sent."""
        head = post("/predict", b"").replace(b"Content-Length: 0", f"Content-Length: {FAR_TOO_LARGE}".encode())
        return Ask("too large, declared", head, {413: _error("body_too_large")}, last=True)

    def too_large_in_chunks(self) -> Ask:
        pieces = [b'{"text": "', *[b"a" * 8192] * (self._caller.model.max_body_bytes // 8192 + 2), b'"}']
        wire = post_chunks("/predict", pieces, "application/json")
        return Ask("too large, in chunks", wire, {413: _error("body_too_large")}, last=True)

    def wrong_media(self) -> Ask:
        media = self._rng.choice(("application/xml", "image/png", "", "application/x-www-form-urlencoded"))
        path = self._rng.choice(("/predict", "/invocations", "/tokenize"))
        return Ask("wrong media type", post(path, b"{}", media), {415: _error("unsupported_media_type")})

    def not_acceptable(self) -> Ask:
        wire = post("/invocations", b'{"text": "a"}', headers={"Accept": "image/png"})
        return Ask("not acceptable", wire, {406: _error("not_acceptable")})

    def no_such_place(self) -> Ask:
        wire, status, kind = self._rng.choice(
            (
                (get("/nowhere"), 404, "not_found"),
                (post_json("/v2/models/other/infer", {"inputs": [_tensor("a")]}), 404, "not_found"),
                (get("/predict"), 405, "method_not_allowed"),
            )
        )
        return Ask("no such place or method", wire, {status: _error(kind)})

    def not_http(self) -> Ask:
        wire = self._rng.choice(
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),  # a TLS hello
                b"HELLO\r\n\r\n",
                post("/predict", b"{}").replace(b"Content-Length: 2", b"Content-Length: two"),
            )
        )
        return Ask("not HTTP", wire, {400: _error("bad_request")}, last=True)

    def large_head(self) -> Ask:
        wire = post("/predict", b"{}", headers={"X-Filler": "a" * HEAD_BYTES})
        return Ask("too large a head", wire, {431: _error("headers_too_large")}, last=True)

    def hopeless_deadline(self) -> Ask:
        one = self._caller.one()
        wire = post_json("/predict", {"text": one.text, "timeout_ms": 1})
        right = {200: (answers.predict, [one]), 504: _error("deadline_exceeded"), 429: _error("overloaded")}
        return Ask("deadline of 1 ms", wire, right)

    def hopeless_batch(self) -> Ask:
        some = self._caller.some()
        wire = post_json("/batch", {"texts": [one.text for one in some], "timeout_ms": 1})
        right = {200: (answers.batch, some), 504: _error("deadline_exceeded"), 429: _error("overloaded")}
        return Ask("deadline of 1 ms, batch", wire, right)

    def poisoned(self) -> Ask:
        mark = self._rng.choice((RAISE, NAN))
        wire = post_json("/predict", {"text": f"{self._caller.one().text} {mark}"})
        return Ask("poisoned", wire, {500: _error("inference_failed")})

    def poisoned_batch(self) -> Ask:
        some, texts = self._poisoned_texts()
        if self._rng.random() < 0.5:
            return Ask("poisoned batch", post_json("/batch", {"texts": texts}), {200: (answers.batch, some)})
        body = b"\n".join(json.dumps({"text": text}).encode() for text in texts)
        right = {200: (answers.label_map_lines, some)}
        return Ask("poisoned lines", post("/invocations", body, "application/jsonlines"), right)

    def _poisoned_texts(self) -> tuple[list[Expected], list[str]]:
        some: list[Expected] = [*self._caller.some()]
        texts = [one.text for one in some if isinstance(one, Known)]
        place = self._rng.randrange(len(texts))
        some[place] = "inference_failed"
        texts[place] += f" {self._rng.choice((RAISE, NAN))}"
        return some, texts

    def short_of_memory(self) -> Ask:
        """In any batch of several there is not enough memory for it; alone it is answered."""
        wire = post_json("/predict", {"text": f"{self._caller.one().text} {MEMORY}"})
        return Ask("short of memory", wire, {200: None})

    def leaves_in_head(self) -> Ask:
        wire = post_json("/predict", {"text": self._caller.one().text})
        return self._leaves("leaves within the head", wire[: self._rng.randint(1, wire.index(b"\r\n\r\n"))])

    def leaves_in_body(self) -> Ask:
        wire = post_json("/predict", {"text": self._caller.one().text})
        return self._leaves(
            "leaves within the body", wire[: self._rng.randint(wire.index(b"\r\n\r\n") + 4, len(wire) - 1)]
        )

    def leaves_waiting(self) -> Ask:
        path, body = self._rng.choice(
            (
                ("/predict", {"text": self._caller.one().text}),
                ("/batch", {"texts": [one.text for one in self._caller.some(24)]}),
                ("/invocations", {"inputs": [one.text for one in self._caller.some(24)]}),
            )
        )
        return self._leaves("leaves while waiting", post_json(path, body), Leaving(self._rng.uniform(0, 0.03)))

    def leaves_a_stream(self) -> Ask:
        """Within the answer, and in half of the cases within the body, too."""
        lines = [json.dumps(self._caller.one().text).encode() + b"\n" for _ in range(self._rng.randint(80, 160))]
        wire = post_chunks("/batch", lines, "application/x-ndjson")
        if self._rng.random() < 0.5:
            wire = wire.removesuffix(b"0\r\n\r\n") + chunk(b'"half a li')
        return self._leaves("leaves within a stream", wire, Leaving(after_answer_began=True))

    @staticmethod
    def _leaves(kind: str, wire: bytes, leaving: Leaving | None = None) -> Ask:
        return Ask(kind, wire, {}, leaving=leaving or Leaving())

    def kinds(self) -> Sequence[tuple[Callable[[], Ask], float]]:
        """Ways to make trouble, with their shares: together a twentieth of all that is asked."""
        return (
            (self.not_json, 0.6),
            (self.wrong_type, 0.8),
            (self.empty_text, 0.3),
            (self.too_large, 0.2),
            (self.too_large_in_chunks, 0.1),
            (self.wrong_media, 0.3),
            (self.not_acceptable, 0.2),
            (self.no_such_place, 0.4),
            (self.not_http, 0.2),
            (self.large_head, 0.1),
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


def _tensor(text: str) -> dict[str, object]:
    return {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
