"""Handlers for AWS's own PyTorch and Hugging Face inference images: `code/inference.py` of a model.tar.gz.

From this project they need only the package `classifier`, which is in the same directory of the archive. They take and
return JSON as the service's `/invocations` does:

    {"text": "..."}                                      -> {"sport": 0.98, "tech": 0.01, ...}, most probable first
    {"inputs": "..."} or {"inputs": ["...", ...]}        -> [{"label", "score"}, ...], the best label of each text
    {"inputs": ..., "parameters": {"top_k": 2 or null}}  -> a list of labels for a text, a list of such for a list
    {"instances": ["...", {"text": "..."}, ...]}         -> {"predictions": [{"label", "score"}, ...]}

A text in a list that cannot be classified has an object {"error", "kind"} in its place.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for an image that loads this file by its path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from classifier.artifact import Artifact, read_artifact
from classifier.decoding import combine_windows, probabilities
from classifier.encoding import EncodedText
from classifier.errors import EmptyTextError, EncodingError, TextTooLongError
from classifier.golden import (
    GOLDEN_TOLERANCE,
    Forward,
    check_golden_difference,
    encode_golden_texts,
    golden_difference,
)

try:
    from sagemaker_inference.errors import BaseInferenceToolkitError  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # outside AWS's images

    class BaseInferenceToolkitError(Exception):  # type: ignore[no-redef, unused-ignore]
        """Stand-in for AWS's error of a request."""

        def __init__(self, status_code: int, message: str, phrase: str) -> None:
            super().__init__(message)
            self.status_code, self.message, self.phrase = status_code, message, phrase


InvocationError = BaseInferenceToolkitError
"""A request that cannot be answered; AWS's images send its status and message."""
BATCH_TOKENS = 4096
ERROR_KINDS = {EmptyTextError: "empty_text", TextTooLongError: "text_too_long"}
JSON = "application/json"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextBody(_Body):
    """The form of the article."""

    text: str


class Parameters(_Body):
    """Parameters of transformers' text-classification pipeline."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    truncation: bool = False


class InputsBody(_Body):
    """The form of Hugging Face."""

    inputs: str | Annotated[list[str], Field(min_length=1)]
    parameters: Parameters = Parameters()


class InstancesBody(_Body):
    """The form of TensorFlow Serving."""

    instances: Annotated[list[str | TextBody], Field(min_length=1)]


BODIES: dict[str, type[_Body]] = {"inputs": InputsBody, "instances": InstancesBody, "text": TextBody}


class ArtifactClassifier:
    """The classifier of an artifact in float32, with its clean-up, windows and calibration.

    Raises:
        ArtifactError: the model cannot be loaded, or gives other answers here than at training time.
    """

    def __init__(self, artifact: Artifact, device: str = "cpu") -> None:
        self._labels = artifact.labels.names
        self._calibration = artifact.manifest.calibration
        self._encoder = artifact.encoder()
        self._infer: Forward
        if artifact.manifest.head == "flatten":
            from classifier.model import infer_sequences  # imports transformers, which takes seconds

            self._infer = partial(infer_sequences, artifact.model().to(device))
        else:
            self._infer = artifact.packed(device=device)
        difference = golden_difference(artifact, encode_golden_texts(artifact), self._infer)
        check_golden_difference(artifact, difference, GOLDEN_TOLERANCE, "float32")

    def scores(self, texts: list[str], truncate: bool = False) -> list[dict[str, float] | EncodingError]:
        """Return the probabilities of each text by label, most probable first, or why it cannot be classified."""
        encoded = self._encoder.encode(texts, "truncate" if truncate else None)
        logits = self._logits([w.ids for text in encoded if isinstance(text, EncodedText) for w in text.windows])
        answers: list[dict[str, float] | EncodingError] = []
        for text in encoded:
            if not isinstance(text, EncodedText):
                answers.append(text)
                continue
            lengths = [len(window.ids) for window in text.windows]
            combined = combine_windows([next(logits) for _ in lengths], lengths)
            probs = probabilities(combined, self._calibration.temperature(text.tokens_read)).tolist()
            answers.append(dict(sorted(zip(self._labels, probs, strict=True), key=lambda pair: -pair[1])))
        return answers

    def _logits(self, sequences: list[Any]) -> Iterator[Any]:
        """Yield the logits of each sequence, from batches of at most `BATCH_TOKENS` tokens (a longer one alone)."""
        batches: list[list[Any]] = []
        for ids in sequences:
            if not batches or sum(map(len, batches[-1])) + len(ids) > BATCH_TOKENS:
                batches.append([])
            batches[-1].append(ids)
        for batch in batches:
            yield from self._infer(batch).numpy()


def model_fn(model_dir: str, context: Any = None) -> ArtifactClassifier:
    """Return the classifier of an artifact's directory, on a GPU if there is one.

    Args:
        model_dir: the directory.
        context: the model server's, which names the GPU of this worker (`gpu_id`); None: the first one.

    Raises:
        ArtifactError: the artifact cannot be served on this machine; the message says why.
    """
    torch.set_float32_matmul_precision("highest")  # these images may ask for TF32
    gpu = None if context is None else context.system_properties.get("gpu_id")
    device = "cpu" if not torch.cuda.is_available() else f"cuda:{gpu or 0}"
    return ArtifactClassifier(read_artifact(model_dir), device)


def input_fn(body: str | bytes, content_type: str = JSON) -> TextBody | InputsBody | InstancesBody:
    """Return the body of a request. Raises InvocationError with status 400 or 415 and what is wrong."""
    if content_type.partition(";")[0].strip().lower() != JSON:
        raise _refusal(415, f"content type {content_type!r} is not {JSON}")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _refusal(400, f"the body is not valid JSON: {exc}") from exc
    form = next((BODIES[key] for key in BODIES if key in given), None) if isinstance(given, dict) else None
    if form is None:
        raise _refusal(400, 'the body must be an object with "text", "inputs" or "instances"')
    try:
        return form.model_validate(given)  # type: ignore[return-value]
    except ValidationError as exc:
        problems = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()[:5]]
        raise _refusal(400, "; ".join(problems)) from exc


def predict_fn(data: TextBody | InputsBody | InstancesBody, model: ArtifactClassifier) -> Any:
    """Return the answer as plain data. Raises InvocationError with status 400 if a lone text cannot be classified."""
    if isinstance(data, InstancesBody):
        texts = [one if isinstance(one, str) else one.text for one in data.instances]
        return {"predictions": [_labels(scores, 1, best=True) for scores in model.scores(texts)]}
    if isinstance(data, TextBody):
        return _lone(model.scores([data.text]))
    top_k, truncate = data.parameters.top_k, data.parameters.truncation
    as_lists = "top_k" in data.parameters.model_fields_set  # also as null, as in transformers' pipeline
    if isinstance(data.inputs, str):
        return _labels(_lone(model.scores([data.inputs], truncate)), top_k if as_lists else 1)
    return [_labels(scores, top_k, best=not as_lists) for scores in model.scores(data.inputs, truncate)]


def _lone(scores: list[dict[str, float] | EncodingError]) -> dict[str, float]:
    if isinstance(scores[0], EncodingError):
        raise _refusal(400, f"text 0: {scores[0]}")
    return scores[0]


def _labels(scores: dict[str, float] | EncodingError, top_k: int | None, best: bool = False) -> Any:
    if isinstance(scores, EncodingError):
        return {"error": str(scores), "kind": ERROR_KINDS.get(type(scores), "invalid_text")}
    labels = [{"label": label, "score": score} for label, score in list(scores.items())[:top_k]]
    return labels[0] if best else labels


def output_fn(prediction: Any, accept: str = JSON) -> tuple[str, str]:
    """Return the answer as JSON, and its media type. Raises InvocationError with status 406 if JSON is not accepted."""
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not ranges & {JSON, "application/*", "*/*", ""}:
        raise _refusal(406, f"the only media type of answers is {JSON}, not {accept!r}")
    return json.dumps(prediction), JSON


def _refusal(status: int, message: str) -> BaseInferenceToolkitError:
    return BaseInferenceToolkitError(status, message, "request refused")
