"""Handlers for AWS's own PyTorch and Hugging Face inference images: `code/inference.py` of a model.tar.gz.

It needs no module of this project but `classifier`, which stands beside it there. JSON in and out:

    {"text": "..."}                                    -> {"sport": 0.98, "tech": 0.01, ...}, most probable first
    {"inputs": "..." or [...], "parameters": {"top_k"}} -> [{"label", "score"}, ...], a list of such for a list
    {"instances": ["...", {"text": "..."}, ...]}       -> {"predictions": [{"label", "score", "scores"}, ...]}
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an image that loads this file by its path

from classifier.artifact import Artifact, read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText, Encoder
from classifier.packed import PackedClassifier

BATCH_TOKENS = 4096
JSON = "application/json"

try:
    from sagemaker_inference.errors import BaseInferenceToolkitError  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # outside AWS's images

    class BaseInferenceToolkitError(Exception):  # type: ignore[no-redef, unused-ignore]
        """Theirs: status and message of an answer."""

        def __init__(self, status_code: int, message: str, phrase: str) -> None:
            super().__init__(message)
            self.status_code, self.message, self.phrase = status_code, message, phrase


Refused = BaseInferenceToolkitError
"""A request that cannot be answered; AWS's images send its status and message."""


@dataclass(frozen=True)
class Request:
    """The texts of a request and how its answer is shaped: "text", "inputs", "list" or "instances"."""

    texts: list[str]
    shape: str
    top_k: int | None = None


class Model:
    """The artifact's classifier: its clean-up, windows and temperature."""

    def __init__(self, artifact: Artifact) -> None:
        self.labels = artifact.labels
        self._temperature = artifact.manifest.calibration.temperature
        self._encoder: Encoder = artifact.encoder()
        flatten = artifact.manifest.head == "flatten"
        self._packed: PackedClassifier | None = None if flatten else artifact.packed()
        self._reference = artifact.model() if flatten else None

    def scores(self, texts: list[str]) -> list[dict[str, float]]:
        """Each text's probabilities by label, most probable first."""
        encoded: list[EncodedText] = []
        for i, result in enumerate(self._encoder.encode(texts)):
            if not isinstance(result, EncodedText):
                raise _refuse(400, f"text {i}: {result}")
            encoded.append(result)
        logits = self._logits([window.ids for text in encoded for window in text.windows])
        answers, start = [], 0
        for text in encoded:
            rows = logits[start : start + len(text.windows)]
            start += len(text.windows)
            probs = probabilities(combine_windows(rows, [len(w.ids) for w in text.windows]), self._temperature)
            ranked = sorted(zip(self.labels.names, probs.tolist(), strict=True), key=lambda pair: -pair[1])
            answers.append(dict(ranked))
        return answers

    def _logits(self, sequences: list[Any]) -> list[Any]:
        """Of each sequence, in batches of at most `BATCH_TOKENS` tokens (a longer one alone)."""
        batches: list[list[Any]] = []
        for ids in sequences:
            if not batches or sum(map(len, batches[-1])) + len(ids) > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(ids)
        return [row for batch in batches for row in self._infer(batch)]

    def _infer(self, batch: list[Any]) -> Any:
        if self._packed is not None:
            return self._packed(batch).numpy()
        from classifier.model import infer_sequences

        assert self._reference is not None  # one of the two is there
        return infer_sequences(self._reference, batch).numpy()


def model_fn(model_dir: str) -> Model:
    """The classifier of an artifact's directory."""
    return Model(read_artifact(model_dir))


def input_fn(body: str | bytes, content_type: str = JSON) -> Request:
    """A request's texts; an error with status 400 or 415 that says what is wrong."""
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise _refuse(415, f"content type {content_type!r} is not {JSON}")
    try:
        asked = json.loads(body)
    except ValueError as exc:
        raise _refuse(400, f"the body is not valid JSON: {exc}") from exc
    if not isinstance(asked, dict):
        asked = {"inputs": asked}
    if "text" in asked:
        return Request(_texts([asked["text"]]), "text")
    if "instances" in asked and isinstance(asked["instances"], list):
        items = [item.get("text") if isinstance(item, dict) else item for item in asked["instances"]]
        return Request(_texts(items), "instances")
    if "inputs" in asked:
        inputs, parameters = asked["inputs"], asked.get("parameters") or {}
        top_k = parameters.get("top_k") if isinstance(parameters, dict) else None
        many = isinstance(inputs, list)
        return Request(_texts(inputs if many else [inputs]), "list" if many else "inputs", top_k)
    raise _refuse(400, 'the body needs "text", "inputs" or "instances"')


def predict_fn(data: Request, model: Model) -> Any:
    """The answer, as plain data."""
    scores = model.scores(data.texts)
    if data.shape == "text":
        return scores[0]
    lists = [[{"label": k, "score": v} for k, v in row.items()][: data.top_k] for row in scores]
    if data.shape == "instances":
        return {"predictions": [{**ranked[0], "scores": ranked} for ranked in lists]}
    return lists if data.shape == "list" else lists[0]


def output_fn(prediction: Any, accept: str = JSON) -> tuple[str, str]:
    """JSON, whatever accepts it."""
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not ranges & {JSON, "application/*", "*/*", ""}:
        raise _refuse(406, f"only {JSON} can be answered, not {accept!r}")
    return json.dumps(prediction), JSON


def _texts(values: list[Any]) -> list[str]:
    if not values or not all(isinstance(value, str) for value in values):
        raise _refuse(400, "texts must be strings, and there must be at least one")
    return values


def _refuse(status: int, message: str) -> BaseInferenceToolkitError:
    return BaseInferenceToolkitError(status, message, "request refused")
