"""The article's handler behind FastAPI: one text at a time, padded on the left to the limit, in a `def` endpoint.

    python -m benchmarks.peers.article --artifact DIR --tokens 128 --port 8081 --threads 2

Kinder than the article in one point: model and tokenizer are loaded once, before the port opens.
"""

import argparse
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer, GPT2ForSequenceClassification


class Query(BaseModel):
    text: str


def create_app(artifact: Path, tokens: int) -> FastAPI:
    tokenizer = AutoTokenizer.from_pretrained(artifact, padding_side="left")
    model = GPT2ForSequenceClassification.from_pretrained(artifact, dtype=torch.float32).eval()
    app = FastAPI()

    @app.post("/predict")
    def predict(query: Query) -> dict[str, str | float]:
        inputs = tokenizer(query.text, padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        best = int(logits.argmax(dim=1))
        return {"label": model.config.id2label[best], "score": float(logits.softmax(dim=1)[0, best])}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    uvicorn.run(create_app(parsed.artifact, parsed.tokens), host="127.0.0.1", port=parsed.port, log_level="warning")


if __name__ == "__main__":
    main()
