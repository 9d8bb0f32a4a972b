"""The artifact: the directory that training hands to serving.

    config.json model.safetensors tokenizer.json tokenizer_config.json   as transformers writes them
    README.md                                                            model card
    manifest.json                                                        names every other file with its SHA-256

An artifact is whole or absent: `classifier.artifact_writer` writes it beside its final place, the manifest last, and
renames it. Reading it verifies every hash, so that a copy cut short or a flipped byte is refused.
`transformers.pipeline("text-classification", DIRECTORY)` can load the directory too, except with the head `flatten`.
It holds no pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from classifier import OnLong, Precision
from classifier.calibration import Calibration
from classifier.encoding import Encoder, TextCleaning, load_tokenizer
from classifier.errors import ArtifactError, LabelError, ModelError
from classifier.labels import Labels
from classifier.packed import PackedClassifier

if TYPE_CHECKING:  # importing transformers takes as long as importing torch, and serving does not need it
    import torch

    from classifier.model import GPT2Classifier

MANIFEST = "manifest.json"
CARD = "README.md"
SCHEMA_VERSION = 1

Head = Literal["last_token", "flatten"]

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files that every artifact has."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """Size and hash of one file of the artifact."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")


class Golden(_Frozen):
    """A text with the float32 logits computed at training time. Serving computes them again when it starts."""

    text: str
    logits: list[float]


class Manifest(_Frozen):
    """The contents of manifest.json: all that transformers' own files do not say about the model."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1, description="name of the model, free text")
    created: str = Field(description="time of training, ISO 8601, UTC")
    labels: list[str] = Field(min_length=2)
    head: Head = "last_token"
    max_tokens: int = Field(ge=1, description="tokens of one window")
    window_stride: int = Field(ge=1, description="tokens between the starts of neighbouring windows")
    on_long: OnLong = Field("windows", description="how to treat longer texts unless the caller says otherwise")
    input: str | None = Field(
        None, description="columns of the data that made a text in training, and how they were joined; None: unknown"
    )
    cleaning: TextCleaning = TextCleaning()
    calibration: Calibration = Calibration()
    golden: list[Golden] = Field(min_length=1)
    metrics: dict[str, Any] = Field(default_factory=dict, description="quality on the test split")
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="data, recipe and versions that the model was made from"
    )
    reference: dict[str, Any] = Field(
        default_factory=dict, description="statistics of the training texts, to compare traffic with"
    )
    files: dict[str, FileEntry] = Field(default_factory=dict, description="size and hash of every other file")

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        try:
            Labels(tuple(self.labels))
        except LabelError as exc:
            raise ValueError(str(exc)) from exc
        if self.window_stride > self.max_tokens:
            raise ValueError(f"window_stride {self.window_stride} is above max_tokens {self.max_tokens}")
        for i, golden in enumerate(self.golden):
            if len(golden.logits) != len(self.labels):
                raise ValueError(f"golden text {i} has {len(golden.logits)} logits for {len(self.labels)} labels")
        return self


@dataclass(frozen=True)
class Artifact:
    """A directory whose manifest and hashes have been verified."""

    directory: Path
    manifest: Manifest

    @property
    def labels(self) -> Labels:
        return Labels(tuple(self.manifest.labels))

    @property
    def weights_sha256(self) -> str:
        return self.manifest.files["model.safetensors"].sha256

    def encoder(self) -> Encoder:
        """Return the encoder for this model's texts.

        Raises:
            ArtifactError: tokenizer.json is unusable.
        """
        try:
            tokenizer = load_tokenizer(self.directory / "tokenizer.json")
        except ModelError as exc:
            raise ArtifactError(self.directory, str(exc)) from exc
        m = self.manifest
        return Encoder(tokenizer, m.cleaning, m.max_tokens, m.window_stride, m.on_long)

    def model(self, dtype: "torch.dtype | None" = None) -> "GPT2Classifier":
        """Return the reference model.

        Args:
            dtype: the dtype of the weights; None: float32.

        Raises:
            ArtifactError: the weights do not fit config.json, or config.json does not fit the manifest.
        """
        import torch

        from classifier.flatten import HEADS
        from classifier.model import load_weights

        try:
            model = load_weights(self.directory, dtype or torch.float32, HEADS[self.manifest.head])
        except ModelError as exc:
            raise ArtifactError(self.directory, str(exc)) from exc
        self._check_config(model.config.to_dict())
        return model

    def packed(self, precision: Precision = "float32", device: str = "cpu", keep: bool = True) -> PackedClassifier:
        """Return the packed forward, which exists for the head `last_token` only.

        Args:
            precision: the precision of matrix products.
            device: the device that the model runs on.
            keep: as in `PackedClassifier`.

        Raises:
            ArtifactError: the weights do not fit config.json, or config.json does not fit the manifest.
        """
        try:
            packed = PackedClassifier.load(self.directory, precision, device, keep)
            config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        except ModelError as exc:
            raise ArtifactError(self.directory, str(exc)) from exc
        self._check_config(config)
        if packed.outputs != len(self.labels):
            raise ArtifactError(
                self.directory, f"model.safetensors has {packed.outputs} outputs for {len(self.labels)} labels"
            )
        return packed

    def _check_config(self, config: Mapping[str, Any]) -> None:
        """Raise ArtifactError if config.json and manifest.json disagree on labels or lengths."""
        try:
            labels = Labels.from_id2label({int(i): name for i, name in config["id2label"].items()})
        except (KeyError, ValueError, AttributeError, LabelError) as exc:
            raise ArtifactError(self.directory, f"config.json: id2label: {exc}") from exc
        if labels != self.labels:
            raise ArtifactError(
                self.directory,
                f"config.json has the labels {list(labels.names)}, manifest.json has {self.manifest.labels}",
            )
        flat = config.get("flatten_tokens", self.manifest.max_tokens)
        if self.manifest.max_tokens > flat:
            raise ArtifactError(
                self.directory,
                f"manifest.json reads {self.manifest.max_tokens} tokens at once, config.json's head reads {flat}",
            )
        if self.manifest.max_tokens > config["n_positions"]:
            raise ArtifactError(
                self.directory,
                f"manifest.json reads {self.manifest.max_tokens} tokens at once, "
                f"config.json has {config['n_positions']} positions",
            )


def read_artifact(directory: Path | str) -> Artifact:
    """Read an artifact and verify its manifest and the presence, size and SHA-256 of every file.

    Raises:
        ArtifactError: a file is missing or altered; the message names the directory, the file and the problem.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ArtifactError(directory, "no such directory")
    manifest = _read_manifest(directory)
    unlisted = [name for name in REQUIRED if name not in manifest.files]
    if unlisted:
        raise ArtifactError(directory, f"{MANIFEST} does not list {', '.join(unlisted)}")
    for name, entry in manifest.files.items():
        _verify_file(directory, name, entry)
    # transformers reads some files only because they exist (adapter_config.json); hidden files belong to the system
    unknown = sorted(
        path.name
        for path in directory.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in {*manifest.files, MANIFEST}
    )
    if unknown:
        raise ArtifactError(
            directory, f"{MANIFEST} does not list {', '.join(unknown)}; remove what does not belong there"
        )
    return Artifact(directory, manifest)


def _read_manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(directory, f"{MANIFEST} is missing: not an artifact, or one cut short") from None
    except (OSError, ValueError, RecursionError) as exc:
        raise ArtifactError(directory, f"{MANIFEST} cannot be read: {exc}") from exc
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            directory, f"{MANIFEST} has schema version {version!r}, this release reads {SCHEMA_VERSION}"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the manifest"
        raise ArtifactError(directory, f"{MANIFEST}: {where}: {first['msg'].removeprefix('Value error, ')}") from exc


def _verify_file(directory: Path, name: str, entry: FileEntry) -> None:
    if Path(name).name != name:
        raise ArtifactError(directory, f"{MANIFEST} names {name!r}, which is not a plain file name")
    path = directory / name
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactError(directory, f"{name} has {size} bytes, {MANIFEST} says {entry.size}: cut short?")
        if sha256_of(path) != entry.sha256:
            raise ArtifactError(directory, f"{name} was altered: its SHA-256 is not the one in {MANIFEST}")
    except FileNotFoundError:
        raise ArtifactError(directory, f"{name} is missing") from None
    except OSError as exc:
        raise ArtifactError(directory, f"{name} cannot be read: {exc}") from exc


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
