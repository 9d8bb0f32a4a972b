"""The article's handler behind FastAPI: one text at a time, padded on the left to the limit, in a `def` endpoint.

Model and tokenizer are loaded once, before the port opens; the article loads them for each request.
"""

from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoTokenizer, GPT2ForSequenceClassification

from benchmarks.servers.options import parse


class Query(BaseModel):
    """The body of a request."""

    text: str


def create_app(artifact: Path, tokens: int) -> FastAPI:
    """Return the application over an artifact that reads `tokens` tokens of a text."""
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
    """Serve until the process is ended."""
    options = parse(__doc__)
    torch.set_num_threads(options.threads)
    app = create_app(options.artifact, options.tokens)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
