"""Writing an artifact whole or not at all; `classifier.artifact` says what an artifact is."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from classifier.artifact import MANIFEST, Artifact, FileEntry, Manifest, read_artifact, sha256_of
from classifier.errors import ArtifactError

if TYPE_CHECKING:  # importing transformers takes as long as importing torch
    from classifier.model import GPT2Classifier

CARD = "README.md"


def write_artifact(
    directory: Path | str,
    *,
    model: "GPT2Classifier",
    tokenizer: Tokenizer,
    manifest: Manifest,
    card: str,
    overwrite: bool = False,
) -> Artifact:
    """Write an artifact and read it back.

    Args:
        directory: its final place. Parent directories are created.
        model: its weights are stored in the dtype that they have.
        tokenizer: stored as tokenizer.json.
        manifest: `files` is filled in here.
        card: the model card, Markdown.
        overwrite: replace an existing artifact. Other existing files or directories are never replaced.

    Raises:
        ArtifactError: something else is there, or the directory cannot be written.
    """
    directory = Path(directory)
    check_writable_target(directory, overwrite=overwrite)
    try:
        with _staging(directory) as staged:
            _write_model_files(staged, model, tokenizer, manifest)
            (staged / CARD).write_text(card, encoding="utf-8")
            files = {p.name: FileEntry(sha256=sha256_of(p), size=p.stat().st_size) for p in sorted(staged.iterdir())}
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
    """Check that an artifact can be written to a directory. Training calls this before it begins.

    Raises:
        ArtifactError: something is there that may not be replaced, or the directory cannot be written.
    """
    if directory.is_symlink():
        raise ArtifactError(
            directory, f"is a symbolic link; give the directory that it points to, {directory.resolve()}"
        )
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        _rehearse(directory)
        return
    if not (directory / MANIFEST).is_file():
        raise ArtifactError(directory, "something other than an artifact is there; choose another output directory")
    if not overwrite:
        raise ArtifactError(directory, "an artifact is there already; choose another directory, or pass --overwrite")
    _rehearse(directory)


def _rehearse(directory: Path) -> None:
    """Do what `_move_into_place` will do with an empty directory, and undo it."""
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
    # Other programs load the model by transformers' own class; they do not have GPT2Classifier.
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
        padding_side="right",  # transformers numbers positions by column, which is right for right padding only
        model_max_length=manifest.max_tokens,
    ).save_pretrained(directory)


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """Make a hidden directory on the same file system and remove it afterwards, even after Ctrl-C."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = directory if os.path.ismount(directory) else directory.parent
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=place))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _move_into_place(staged: Path, directory: Path) -> None:
    staged.chmod(0o755)  # mkdtemp made it private, but others must read the artifact
    if os.path.ismount(
        directory
    ):  # a mount cannot be renamed (SageMaker's /opt/ml/model): it is whole once the manifest, moved last, is there
        for path in sorted(staged.iterdir(), key=lambda path: path.name == MANIFEST):
            os.replace(path, directory / path.name)
    elif not directory.exists() or not any(directory.iterdir()):
        os.replace(staged, directory)
    else:
        with _staging(directory) as aside:  # the old artifact is deleted once the new one is in place
            os.replace(directory, aside / "old")
            try:
                os.replace(staged, directory)
            except BaseException:
                os.replace(aside / "old", directory)
                raise
    _sync(directory.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
