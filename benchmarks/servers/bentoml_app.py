"""Hugging Face's text-classification pipeline behind BentoML, adaptive batching on. Runs in the environment `bentoml`.

    BENCH_ARTIFACT=DIR BENCH_TOKENS=128 BENCH_THREADS=2 bentoml serve benchmarks.servers.bentoml_app:Classifier

It is configured by environment variables, because BentoML makes the service in processes of its own.
"""

import os
from typing import Any

import bentoml
import torch
from transformers import pipeline

MAX_BATCH_SIZE = 32
TIMEOUT_S = 120


@bentoml.service(workers=1, traffic={"timeout": TIMEOUT_S})
class Classifier:
    """One worker, because several would share the same cores."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["BENCH_THREADS"]))
        self.tokens = int(os.environ["BENCH_TOKENS"])
        self.pipe = pipeline(
            "text-classification", model=os.environ["BENCH_ARTIFACT"], device="cpu", dtype=torch.float32
        )

    # BentoML refuses requests that it expects to exceed this latency; here all are to be answered
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=1000 * TIMEOUT_S)
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = self.pipe(
            list(texts), batch_size=len(texts), padding=True, truncation=True, max_length=self.tokens
        )
        return answers
