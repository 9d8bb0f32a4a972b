"""The model directory: what training hands to serving.

    config.json model.safetensors tokenizer.json tokenizer_config.json   as transformers writes them
    README.md                                                            model card
    manifest.json                                                        written last; hashes of all the above

A directory is whole or absent. It is written beside its final place and renamed into it; the manifest is written last
and names every other file with its SHA-256, so that a copy cut short or a flipped byte is refused when it is read.
`transformers.pipeline("text-classification", DIRECTORY)` can load the directory too, except with the head `flatten`.
Nothing in it is a pickle.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer

from classifier import OnLong, Precision
from classifier.encoding import Encoder, TextCleaning, load_tokenizer
from classifier.errors import ArtifactError, LabelError, ModelError
from classifier.labels import Labels
from classifier.packed import PackedClassifier

if TYPE_CHECKING:  # importing transformers takes as long as importing torch, and serving does without
    import torch

    from classifier.model import GPT2Classifier

MANIFEST = "manifest.json"
CARD = "README.md"
SCHEMA_VERSION = 1

Head = Literal["last_token", "flatten"]

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""Files without which the artifact cannot be served."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")


class Golden(_Frozen):
    """A text of our own with the float32 logits that this model gave when it was trained."""

    text: str
    logits: list[float]


class Calibration(_Frozen):
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="divides logits before the softmax")


class Manifest(_Frozen):
    """What the artifact is, beyond what transformers' own files say."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1, description="the model's name, free text")
    created: str = Field(description="ISO 8601, UTC")
    labels: list[str] = Field(min_length=2)
    head: Head = "last_token"
    max_tokens: int = Field(ge=1, description="tokens of one window")
    window_stride: int = Field(ge=1, description="tokens between the starts of neighbouring windows")
    on_long: OnLong = Field("windows", description="what becomes of longer texts where a caller does not say")
    cleaning: TextCleaning = TextCleaning()
    calibration: Calibration = Calibration()
    unsure_below: float = Field(0.0, ge=0, le=1, description='answers with a smaller top probability are "unsure"')
    golden: list[Golden] = Field(min_length=1)
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured on the untouched test split")
    provenance: dict[str, Any] = Field(default_factory=dict, description="data, recipe and versions it was made from")
    reference: dict[str, Any] = Field(default_factory=dict, description="what traffic looked like at training time")
    files: dict[str, FileEntry] = Field(default_factory=dict, description="every other file of the directory")

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
    """A directory whose manifest and hashes were found to be right."""

    directory: Path
    manifest: Manifest

    @property
    def labels(self) -> Labels:
        return Labels(tuple(self.manifest.labels))

    @property
    def weights_sha256(self) -> str:
        return self.manifest.files["model.safetensors"].sha256

    def encoder(self) -> Encoder:
        """Raises ArtifactError if tokenizer.json is unusable."""
        try:
            tokenizer = load_tokenizer(self.directory / "tokenizer.json")
        except ModelError as exc:
            raise ArtifactError(self.directory, str(exc)) from exc
        m = self.manifest
        return Encoder(tokenizer, m.cleaning, m.max_tokens, m.window_stride, m.on_long)

    def model(self, dtype: "torch.dtype | None" = None) -> "GPT2Classifier":
        """The reference model, its weights in `dtype`, float32 if None.

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
        """The fast forward, for the head `last_token`; `keep` as in `PackedClassifier`.

        Raises:
            ArtifactError: as `model` does.
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
        """Labels and lengths of config.json against the manifest's."""
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
    """Read and verify an artifact: manifest schema, every file's presence, size and SHA-256.

    Raises:
        ArtifactError: naming the directory, the file and what is wrong with it.
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
    # transformers reads some files just because they are there (adapter_config.json); hidden ones are the system's
    strangers = sorted(
        path.name
        for path in directory.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in {*manifest.files, MANIFEST}
    )
    if strangers:
        raise ArtifactError(directory, f"{MANIFEST} does not list {', '.join(strangers)}; remove what does not belong")
    return Artifact(directory, manifest)


def write_artifact(
    directory: Path | str,
    *,
    model: "GPT2Classifier",
    tokenizer: Tokenizer,
    manifest: Manifest,
    card: str,
    overwrite: bool = False,
) -> Artifact:
    """Write an artifact whole or not at all, and read it back.

    Args:
        directory: its final place; its parents are made.
        model: weights are stored in the dtype they have.
        tokenizer: stored as tokenizer.json.
        manifest: without `files`, which are filled in here.
        card: the model card, Markdown.
        overwrite: replace an artifact that is there. Anything else that is there is never replaced.

    Raises:
        ArtifactError: the place is taken, or the disk refuses.
    """
    directory = Path(directory)
    check_writable_target(directory, overwrite=overwrite)
    try:
        with _staging(directory) as staged:
            _write_model_files(staged, model, tokenizer, manifest)
            (staged / CARD).write_text(card, encoding="utf-8")
            files = {p.name: FileEntry(sha256=_sha256(p), size=p.stat().st_size) for p in sorted(staged.iterdir())}
            complete = manifest.model_copy(update={"files": files})
            (staged / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for path in staged.iterdir():
                path.chmod(0o644)
                _sync(path)
            _move_into_place(staged, directory)
    except OSError as exc:
        raise ArtifactError(directory, f"cannot be written: {exc}") from exc
    return read_artifact(directory)


def check_writable_target(directory: Path, *, overwrite: bool) -> None:
    """Find out before an hour of training, not after it.

    Raises:
        ArtifactError: something is there that may not be replaced, or a directory cannot be put there.
    """
    if directory.is_symlink():
        raise ArtifactError(directory, f"is a symbolic link; give the place itself, {directory.resolve()}")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        _rehearse(directory)
        return
    if not (directory / MANIFEST).is_file():
        raise ArtifactError(directory, "something other than an artifact is there; choose another output directory")
    if not overwrite:
        raise ArtifactError(directory, "an artifact is there already; choose another directory, or pass --overwrite")
    _rehearse(directory)


def _rehearse(directory: Path) -> None:
    """Do with an empty directory what `_move_into_place` will do, and undo it."""
    try:
        parents = [p for p in directory.absolute().parents if not p.exists()]
        with _staging(directory) as staged:
            if not directory.exists():
                os.rename(staged, directory)
                directory.rmdir()
            elif os.path.ismount(directory) and (directory / MANIFEST).exists():
                raise OSError("a mounted directory that holds an artifact cannot be replaced; empty it first")
        for parent in parents:
            parent.rmdir()
    except OSError as exc:
        raise ArtifactError(directory, f"cannot be written: {exc}") from exc


def _write_model_files(directory: Path, model: "GPT2Classifier", tokenizer: Tokenizer, manifest: Manifest) -> None:
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(directory)
    # Others load it by transformers' own class; GPT2Classifier is a class of ours that they do not have.
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if manifest.head == "last_token":
        config["architectures"] = ["GPT2ForSequenceClassification"]
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    special = tokenizer.id_to_token(model.config.pad_token_id)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special,
        eos_token=special,
        unk_token=special,
        pad_token=special,
        padding_side="right",  # transformers numbers positions by column: only right padding is right there
        model_max_length=manifest.max_tokens,
    ).save_pretrained(directory)


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
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(directory, f"{MANIFEST}: {where}: {first['msg']}") from exc


def _verify_file(directory: Path, name: str, entry: FileEntry) -> None:
    if Path(name).name != name:
        raise ArtifactError(directory, f"{MANIFEST} names {name!r}, which is not a plain file name")
    path = directory / name
    try:
        size = path.stat().st_size
        if size != entry.size:
            raise ArtifactError(directory, f"{name} has {size} bytes, {MANIFEST} says {entry.size}: cut short?")
        if _sha256(path) != entry.sha256:
            raise ArtifactError(directory, f"{name} was altered: its SHA-256 is not the one in {MANIFEST}")
    except FileNotFoundError:
        raise ArtifactError(directory, f"{name} is missing") from None
    except OSError as exc:
        raise ArtifactError(directory, f"{name} cannot be read: {exc}") from exc


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A hidden directory on the same file system, gone afterwards whatever happens (Ctrl-C included)."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = directory if os.path.ismount(directory) else directory.parent
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=place))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _move_into_place(staged: Path, directory: Path) -> None:
    staged.chmod(0o755)  # mkdtemp made it private; the artifact is for others to read
    if os.path.ismount(directory):  # cannot be replaced itself (SageMaker's /opt/ml/model): whole with its last file
        for path in sorted(staged.iterdir(), key=lambda path: path.name == MANIFEST):
            os.replace(path, directory / path.name)
    elif not directory.exists() or not any(directory.iterdir()):
        os.replace(staged, directory)
    else:
        with _staging(directory) as aside:  # the old artifact is deleted only once the new one stands
            os.replace(directory, aside / "old")
            try:
                os.replace(staged, directory)
            except BaseException:
                os.replace(aside / "old", directory)
                raise
    _sync(directory.parent)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
