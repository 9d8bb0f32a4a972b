"""Files on their way to S3: what is uploaded stands under the hash of its content, so that twice is once.

A file goes to PREFIX/HASH/name, a directory of data to PREFIX/HASH/ with its files below, an artifact to
PREFIX/HASH/model.tar.gz, with its files at the archive's root. HASH is of names and contents alone.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from training.sagemaker.errors import LaunchError

HASH_LENGTH = 16
MODEL = "model.tar.gz"
MANIFEST = "manifest.json"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Place:
    """A bucket and a key or prefix."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Upload:
    """One local tree and where it goes."""

    source: Path
    files: tuple[Path, ...]
    """All files, sorted by their path below `source` (which is the file itself for a lone one)."""
    digest: str
    """SHA-256 of all names and contents, hexadecimal."""
    archive: bool
    """An artifact, packed into one archive."""
    root: Place
    """The prefix with the hash in it, ending with `/`."""

    @property
    def uri(self) -> str:
        """What a request names: the file, the archive, or the prefix of a directory."""
        if self.archive:
            return self.root.uri + MODEL
        return self.root.uri + (self.source.name if self.source.is_file() else "")

    def objects(self) -> list[tuple[str, Path]]:
        """Keys and files of what is not an archive."""
        if self.source.is_file():
            return [(self.root.key + self.source.name, self.source)]
        return [(self.root.key + path.relative_to(self.source).as_posix(), path) for path in self.files]


def place_of(uri: str) -> Place:
    """
    Raises:
        LaunchError: it is no s3:// URI.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise LaunchError(f"{uri!r} is no place in S3: write s3://BUCKET/PREFIX")
    return Place(bucket, key)


def plan_upload(source: Path, destination: str, *, raw: bool = False) -> Upload:
    """
    Args:
        source: a file, a directory of data, or an artifact (which has a manifest and is checked).
        destination: s3://BUCKET/PREFIX.
        raw: upload an artifact's files as they are, not as an archive.

    Raises:
        LaunchError: there is nothing to upload, or a link or something else that is no file.
        ArtifactError: the artifact is damaged.
    """
    if not source.exists():
        raise LaunchError(f"{source} does not exist")
    files = tuple(_files(source))
    if not files:
        raise LaunchError(f"{source} has no file in it")
    archive = not raw and source.is_dir() and (source / MANIFEST).is_file()
    if archive:
        from classifier.artifact import read_artifact

        read_artifact(source)
    digest = hashlib.sha256()
    for path in files:
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        digest.update(f"{name}\0{_sha256(path)}\0".encode())
    place = place_of(destination)
    prefix = f"{place.key.rstrip('/')}/" if place.key.rstrip("/") else ""
    root = Place(place.bucket, f"{prefix}{digest.hexdigest()[:HASH_LENGTH]}/")
    return Upload(source, files, digest.hexdigest(), archive, root)


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            raise LaunchError(f"{path} is a link: SageMaker takes none")
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(source).parts)
        if path.is_file() and not hidden:
            yield path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def packed(upload: Upload) -> Iterator[Path]:
    """The archive, in a temporary directory: the same bytes for the same files, on any machine with the same zlib."""
    with TemporaryDirectory() as directory:
        target = Path(directory) / MODEL
        with (
            target.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for path in upload.files:
                info = tarfile.TarInfo(path.relative_to(upload.source).as_posix())
                info.size, info.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(info, file)
        yield target
