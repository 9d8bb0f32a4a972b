"""The control of the attacks: the service's model behind plain uvicorn, without bounds, routes, keys, metrics or a log.

    python -m benchmarks.soak.control_server PORT MODEL_DIR

A POST is answered by the probabilities of its `text`, as soon as the one thread of the model has computed them; a body
that is not JSON with a text gets 400. A GET is answered by the file `openapi.yaml`.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

from benchmarks.processes import ROOT
from service.errors import ServiceError
from service.inference.engine import Engine
from service.model.load_engine import load_torch_engine
from service.settings import Settings


def classify(engine: Engine, text: str) -> tuple[tuple[str, float], ...]:
    """Return the labels of a text with their probabilities."""
    [encoded] = engine.encode([text], None)
    if isinstance(encoded, ServiceError):
        raise encoded
    return engine.decode(encoded, engine.infer(encoded.windows)).scores


def main(arguments: Sequence[str]) -> None:
    """Serve until the process is ended."""
    port, model_dir = arguments
    engine = load_torch_engine(Settings(model_dir=Path(model_dir)))
    executor = ThreadPoolExecutor(max_workers=1, initializer=engine.prepare_thread)
    page = (ROOT / "openapi.yaml").read_bytes()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, answer = 200, page
        if scope["method"] == "POST":
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
            try:
                text = json.loads(body)["text"]
            except (ValueError, KeyError, TypeError):
                status, answer = 400, b"{}"
            else:
                loop = asyncio.get_running_loop()
                answer = json.dumps(await loop.run_in_executor(executor, classify, engine, text)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1:])
