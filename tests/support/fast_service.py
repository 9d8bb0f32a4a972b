"""A service without a model, in a process of its own: `python -m tests.support.fast_service [SECONDS]`.

It prints its port and takes so many seconds for an answer. The label of a text follows from the text's length, so
that every answer can be checked.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT
from tests.support.texts import LABELS


def result(text: str) -> dict[str, object]:
    if not text.strip():
        return {"error": "the text is empty", "kind": "empty_text", "request_id": "r"}
    scores = [{"label": label, "score": round(1 / (2 + i), 5)} for i, label in enumerate(_ranked(text))]
    return {
        "label": scores[0]["label"],
        "score": scores[0]["score"],
        "scores": scores,
        "unsure": len(text) % 7 == 0,
        "tokens": len(text),
        "tokens_read": len(text),
        "truncated": False,
        "windows": 1,
    }


def _ranked(text: str) -> list[str]:
    first = len(text) % len(LABELS)
    return [*LABELS[first:], *LABELS[:first]]


@contextmanager
def fast_service(delay_s: float = 0.0) -> Iterator[str]:
    """Start the process and yield its URL."""
    command = [sys.executable, "-m", "tests.support.fast_service", str(delay_s)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    delay_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1])) if length else b""
            if "/info" in head.split("\r\n", 1)[0]:
                model = {"name": "fast", "version": "1", "labels": LABELS, "max_tokens": 1000}
                answer: object = {"service": "1", "model": model, "limits": {"max_texts": 16}}
            else:
                await asyncio.sleep(delay_s)
                answer = {"results": [result(text) for text in json.loads(body)["texts"]]}
            content = json.dumps(answer).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**22)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
