"""Hugging Face's text-classification pipeline behind LitServe, batching on. Runs in the environment `litserve`."""

from pathlib import Path
from typing import Any

import litserve
import torch
from transformers import pipeline

from benchmarks.servers.options import parse

MAX_BATCH_SIZE = 32
BATCH_TIMEOUT_S = 0.01
REQUEST_TIMEOUT_S = 120


class Classifier(litserve.LitAPI):
    """One worker, because several would share the same cores."""

    def __init__(self, artifact: Path, tokens: int, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S, api_path="/predict")
        self.artifact, self.tokens, self.threads = str(artifact), tokens, threads

    def setup(self, device: str) -> None:
        torch.set_num_threads(self.threads)
        self.pipe = pipeline("text-classification", model=self.artifact, device=device, dtype=torch.float32)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self.pipe(
            list(texts), batch_size=len(texts), padding=True, truncation=True, max_length=self.tokens
        )
        return answers

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    """Serve until the process is ended."""
    options = parse(__doc__)
    api = Classifier(options.artifact, options.tokens, options.threads)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=REQUEST_TIMEOUT_S)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
