"""`model.tar.gz` that AWS's own PyTorch and Hugging Face images serve as well as this project's image.

    python -m training.sagemaker.job.pack ARTIFACT model.tar.gz
    python -m training.sagemaker.job.pack --source code

The archive has the artifact's files at its root and below `code/` the handlers, the package `classifier` that they
need, and a requirements.txt, which those images install when they start (not under network isolation: there serve
with this project's image). `--source` writes a directory for the `source_dir` of AWS's estimators.
"""

import argparse
import gzip
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from classifier.artifact import read_artifact
from classifier.errors import ArtifactError, ClassifierError

ROOT = Path(__file__).parents[3]
CODE = "code"
SERVING = ("numpy>=2", "pydantic>=2.10", "safetensors>=0.5", "tokenizers>=0.21", "transformers>=5")
TRAINING = (
    *SERVING, "accelerate>=1.1", "fsspec>=2024.6", "jinja2>=3.1", "matplotlib>=3.9", "pyarrow>=18",
    "scikit-learn>=1.5", "scipy>=1.14",
)  # fmt: skip
"""torch is the image's own."""


def add_code(directory: Path) -> None:
    """Write `code/` into an artifact's directory, over one that is there."""
    code = directory / CODE
    shutil.rmtree(code, ignore_errors=True)
    code.mkdir()
    shutil.copy(Path(__file__).parents[1] / "handlers" / "inference.py", code / "inference.py")
    _copy_package("classifier", code)
    (code / "requirements.txt").write_text("\n".join(SERVING) + "\n", encoding="utf-8")


def export_source(directory: Path) -> None:
    """Write what trains and serves with AWS's estimators to a directory of its own.

    Raises:
        FileExistsError: it is there already.
    """
    directory.mkdir(parents=True)
    shutil.copy(ROOT / "train_deploy.py", directory / "train_deploy.py")
    for package in ("classifier", "training"):
        _copy_package(package, directory)
    (directory / "requirements.txt").write_text("\n".join(TRAINING) + "\n", encoding="utf-8")


def pack(artifact_dir: Path, tar_path: Path) -> None:
    """Write an artifact and its `code/` as an archive; the same artifact gives the same bytes.

    Raises:
        ArtifactError: it cannot be read, or the archive cannot be written.
    """
    artifact = read_artifact(artifact_dir)
    unfinished = tar_path.with_name(f".{tar_path.name}.unfinished")
    scratch = tar_path.with_name(f".{tar_path.name}.code")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir(parents=True)
        add_code(scratch)
        members = {name: artifact_dir / name for name in (*artifact.manifest.files, "manifest.json")}
        members |= {p.relative_to(scratch).as_posix(): p for p in sorted(scratch.rglob("*")) if p.is_file()}
        with (
            unfinished.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w") as archive,
        ):
            for name, path in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)
        unfinished.replace(tar_path)
    except OSError as exc:
        raise ArtifactError(artifact_dir, f"{tar_path} cannot be written: {exc}") from exc
    finally:
        unfinished.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _copy_package(name: str, target: Path) -> None:
    shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an archive or a source directory; 2 if that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m training.sagemaker.job.pack", description=__doc__)
    parser.add_argument("artifact", type=Path, nargs="?", help="the artifact's directory")
    parser.add_argument("archive", type=Path, nargs="?", help="the model.tar.gz to write")
    parser.add_argument("--source", type=Path, help="write a source_dir for AWS's estimators instead")
    parsed = parser.parse_args(arguments)
    if (parsed.source is None) == (parsed.archive is None):
        parser.error("give an artifact and an archive, or --source DIR")
    try:
        if parsed.source is not None:
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
