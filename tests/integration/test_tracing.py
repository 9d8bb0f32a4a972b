"""Spans of the real service, as a collector receives them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from classifier.artifact import Artifact
from tests.support.service_process import service_process

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(HTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: dict[str, tuple[str, str]] = {}
        """Name to trace id and attributes as text."""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.spans[span.name] = (span.trace_id.hex(), str(span.attributes))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_of_its_callers_trace(artifact: Artifact, collector: Collector) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    with service_process(artifact.directory, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as service:
        with service.client() as client:
            traced = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            assert client.post("/predict", json={"text": "a secret text"}, headers=traced).status_code == 200
            assert client.get("/readyz").status_code == 200
        assert service.stop() == 0
        assert [line["trace_id"] for line in service.lines if line["message"] == "request"] == [TRACE]
    assert {"POST /predict", "tokenize", "model"} <= set(collector.spans)
    assert not [name for name in collector.spans if "readyz" in name]
    for name in ("POST /predict", "tokenize", "model"):
        trace_id, attributes = collector.spans[name]
        assert trace_id == TRACE and "secret" not in attributes
