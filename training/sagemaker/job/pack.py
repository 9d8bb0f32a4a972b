"""Pack an artifact as a `model.tar.gz` that AWS's own PyTorch and Hugging Face images can serve, too.

    python -m training.sagemaker.job.pack ARTIFACT model.tar.gz
    python -m training.sagemaker.job.pack --source code

The archive has the artifact's files at its root. Its directory `code/` has the handlers, the package `classifier` that
they need, and a requirements.txt, which those images install when they start (not under network isolation: there,
serve with this project's image). `--source` writes a directory for the `source_dir` of AWS's estimators.
"""

import argparse
import gzip
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from classifier.errors import ArtifactError, ClassifierError

ROOT = Path(__file__).parents[3]
SERVING = ("numpy>=2", "pydantic>=2.10", "safetensors>=0.5", "tokenizers>=0.21", "transformers>=5")
"""Requirements of the handlers; torch is the image's own."""
TRAINING = (
    *SERVING, "accelerate>=1.1", "fsspec>=2024.6", "jinja2>=3.1", "matplotlib>=3.9", "pyarrow>=18",
    "scikit-learn>=1.5", "scipy>=1.14",
)  # fmt: skip


def add_code(directory: Path) -> None:
    """Write `code/` into an artifact's directory and replace one that is there."""
    code = directory / "code"
    shutil.rmtree(code, ignore_errors=True)
    code.mkdir()
    shutil.copy(Path(__file__).parents[1] / "handlers" / "inference.py", code / "inference.py")
    _copy_package("classifier", code)
    (code / "requirements.txt").write_text("\n".join(SERVING) + "\n", encoding="utf-8")


def export_source(directory: Path) -> None:
    """Write a source directory for AWS's estimators, to train and serve. Raises FileExistsError if it exists."""
    directory.mkdir(parents=True)
    shutil.copy(ROOT / "train_deploy.py", directory / "train_deploy.py")
    for package in ("classifier", "training"):
        _copy_package(package, directory)
    (directory / "requirements.txt").write_text("\n".join(TRAINING) + "\n", encoding="utf-8")


def _copy_package(name: str, target: Path) -> None:
    shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def pack(artifact_dir: Path, tar_path: Path) -> None:
    """Write an artifact and its `code/` as an archive. Raises ArtifactError if one of them is unusable."""
    from classifier.artifact import read_artifact  # imports torch, which `write_archive` does without

    artifact = read_artifact(artifact_dir)
    unfinished = tar_path.with_name(f".{tar_path.name}.unfinished")
    try:
        with TemporaryDirectory() as scratch:
            add_code(Path(scratch))
            members = {name: artifact_dir / name for name in (*artifact.manifest.files, "manifest.json")}
            added = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
            write_archive(unfinished, members | {path.relative_to(scratch).as_posix(): path for path in added})
        unfinished.replace(tar_path)
    except OSError as exc:
        raise ArtifactError(artifact_dir, f"{tar_path} cannot be written: {exc}") from exc
    finally:
        unfinished.unlink(missing_ok=True)


def write_archive(target: Path, members: Mapping[str, Path]) -> None:
    """Write files as a tar.gz under the given names; the same files give the same bytes."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, path in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an archive or a source directory. Return the exit code: 0, or 2 if it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m training.sagemaker.job.pack", description=__doc__)
    parser.add_argument("artifact", type=Path, nargs="?", help="the artifact's directory")
    parser.add_argument("archive", type=Path, nargs="?", help="the model.tar.gz to write")
    parser.add_argument("--source", type=Path, help="write a source_dir for AWS's estimators instead")
    parsed = parser.parse_args(arguments)
    if (parsed.source is None) == (parsed.archive is None):
        parser.error("give an artifact and an archive, or --source DIR")
    try:
        if parsed.source:
            export_source(parsed.source)
        else:
            pack(parsed.artifact, parsed.archive)
    except (ClassifierError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    sys.stdout.write(f"wrote {parsed.source or parsed.archive}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
