"""The command `upload`: files to S3 under the hash of their content, so that nothing is sent twice.

A file goes to PREFIX/HASH/name, a directory of data to PREFIX/HASH/ with its files below, an artifact to
PREFIX/HASH/model.tar.gz with its files at the archive's root. HASH covers names and contents alone.
"""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training.sagemaker.errors import LaunchError, NotFoundError
from training.sagemaker.job.pack import write_archive
from training.sagemaker.launch.launcher import DONE, Launcher
from training.sagemaker.launch.options import UploadOptions

HASH_LENGTH = 16
MODEL = "model.tar.gz"
DIGEST = "content-sha256"
"""Metadata of the objects that `upload` has written."""


def upload(launcher: Launcher, options: UploadOptions) -> int:
    """Copy a file, data or an artifact to S3 and print what a request names. An artifact is verified first."""
    source = Path(options.source)
    files = find_files(source)
    is_artifact = not options.raw and source.is_dir() and "manifest.json" in files
    if is_artifact:
        from classifier.artifact import read_artifact

        read_artifact(source)
    digest = digest_of(files)
    bucket, key = bucket_and_key(options.destination)
    prefix = f"{key.rstrip('/')}/{digest[:HASH_LENGTH]}/".lstrip("/")
    names = [MODEL] if is_artifact else list(files)
    if options.dry_run:
        shown = {"objects": [f"s3://{bucket}/{prefix}{name}" for name in names], "sha256": digest}
        launcher.console.result(json.dumps(shown, indent=2, ensure_ascii=False))
        return DONE
    settings: dict[str, Any] = {"Metadata": {DIGEST: digest}}
    if options.kms_key:
        settings |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": options.kms_key}
    sent = 0
    with TemporaryDirectory() as directory:
        for name in names:
            if _is_stored(launcher, bucket, prefix + name, digest):
                continue
            path = files.get(name) or Path(directory) / MODEL
            if is_artifact:
                write_archive(path, files)
            launcher.aws.upload_file(str(path), bucket, prefix + name, settings)
            sent += path.stat().st_size
    launcher.console.say(f"sent {sent} bytes" if sent else "nothing to send: it is there already")
    launcher.console.result(f"s3://{bucket}/{prefix}{'' if source.is_dir() and not is_artifact else names[0]}")
    return DONE


def _is_stored(launcher: Launcher, bucket: str, key: str, digest: str) -> bool:
    try:
        found = launcher.aws.call("s3", "HeadObject", Bucket=bucket, Key=key)
    except NotFoundError:
        return False
    return bool(found.get("Metadata", {}).get(DIGEST) == digest)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return the bucket and the key or prefix of an s3:// URI. Raises LaunchError if it is no such URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise LaunchError(f"{uri!r} is not a location in S3: write s3://BUCKET/PREFIX")
    return bucket, key


def find_files(source: Path) -> dict[str, Path]:
    """Return a file, or the files of a directory but hidden ones, by their names below it.

    Raises LaunchError if there is no file, or a symbolic link.
    """
    if not source.exists():
        raise LaunchError(f"{source} does not exist")
    files = {source.name: source} if source.is_file() else {}
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        if path.is_symlink():
            raise LaunchError(f"{path} is a symbolic link, which SageMaker does not take")
        name = path.relative_to(source)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
            files[name.as_posix()] = path
    if not files:
        raise LaunchError(f"{source} has no file in it")
    return files


def digest_of(files: dict[str, Path]) -> str:
    """Return the SHA-256 of all names and contents, in hexadecimal."""
    total = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()
