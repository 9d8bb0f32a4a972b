"""The commands push, upload and invoke against moto and a stand-in for docker."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import botocore.client
import pytest
from botocore.exceptions import ClientError
from pytest import MonkeyPatch

from classifier.artifact import Artifact
from tests.unit.training.sagemaker.conftest import ACCOUNT, REGION, ROLE, Shell, backend, post
from training.sagemaker.errors import LaunchError
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.uploads import bucket_and_key, digest_of, find_files

REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
TARGET = f"{REGISTRY}/gpt2:20260131-235958"
PUSH = ("push", "--image", "gpt2-classifier", "--repository", "gpt2")
TRAIN = (
    "train", "--name", "news", "--role", ROLE, "--output", "s3://models-bucket/jobs", "--no-network-isolation",
    "--no-wait",
)  # fmt: skip
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def manifest(media_type: str) -> str:
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 1, "digest": "sha256:" + "1" * 64}
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": []})


class TestPush:
    def pushed(self, aws: Aws, shell: Shell, media_type: str = MANIFEST) -> None:
        """Let the tool's push leave an image in ECR."""

        def on_run(words: Sequence[str]) -> int:
            if words[1] == "push":
                tag = TARGET.rpartition(":")[2]
                image = {"imageTag": tag, "imageManifest": manifest(media_type), "imageManifestMediaType": media_type}
                aws.call("ecr", "PutImage", repositoryName="gpt2", **image)
            return 0

        shell.on_run = on_run

    def test_logs_in_tags_pushes_and_prints_the_digest(self, aws: Aws, shell: Shell) -> None:
        self.pushed(aws, shell)
        assert shell.do(*PUSH) == 0, shell.text
        assert [words for words, _ in shell.ran] == [
            ["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY],
            ["docker", "tag", "gpt2-classifier", TARGET],
            ["docker", "push", TARGET],
        ]
        password = shell.ran[0][1]
        assert password and all(password not in word for words, _ in shell.ran for word in words)
        assert shell.out[0].startswith(f"{REGISTRY}/gpt2@sha256:")
        (repository,) = aws.pages("ecr", "DescribeRepositories", "repositories")
        assert repository["imageScanningConfiguration"] == {"scanOnPush": True}

    def test_a_repository_that_exists_is_used(self, aws: Aws, shell: Shell) -> None:
        aws.call("ecr", "CreateRepository", repositoryName="gpt2")
        self.pushed(aws, shell)
        assert shell.do(*PUSH) == 0, shell.text

    def test_an_index_of_images_is_refused(self, aws: Aws, shell: Shell) -> None:
        self.pushed(aws, shell, "application/vnd.oci.image.index.v1+json")
        assert shell.do(*PUSH) == 1
        assert "--provenance=false" in shell.said[-1]

    def test_a_failing_tool_ends_it(self, aws: Aws, shell: Shell) -> None:
        shell.on_run = lambda words: 1
        assert shell.do(*PUSH) == 1
        assert len(shell.ran) == 1 and "exit code 1" in shell.text
        assert shell.ran[0][1] not in shell.text

    def test_other_tools_are_found_and_push_dockers_format(self, no_aws: None, shell: Shell) -> None:
        shell.tools = ("buildah",)
        assert shell.do(*PUSH, "--dry-run", "--account", ACCOUNT, "--region", "cn-north-1") == 0
        target = f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/gpt2:20260131-235958"
        assert shell.out[-1] == f"buildah push --format v2s2 {target}"
        assert shell.out[1].endswith("< the password from ECR")
        assert not shell.ran

    def test_without_a_tool(self, no_aws: None, shell: Shell) -> None:
        shell.tools = ()
        assert shell.do(*PUSH, "--dry-run", "--account", ACCOUNT, "--region", REGION) == 2
        assert "docker nor podman nor buildah" in shell.text


class TestTrainingImage:
    """`train` looks at the image in ECR before it starts a job."""

    def pushed(self, aws: Aws, labels: dict[str, str] | None, processor: str = "amd64") -> str:
        """Put an image with these labels into ECR and return its digest."""
        content = json.dumps({"architecture": processor, "config": {"Labels": labels}}).encode()
        described = json.loads(manifest(MANIFEST))
        layer = described["config"]["digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        aws.call("s3", "PutObject", Bucket="models-bucket", Key=f"layers/{layer}", Body=content)
        aws.call("ecr", "CreateRepository", repositoryName="gpt2")
        image = {"imageTag": "1", "imageManifest": json.dumps(described), "imageManifestMediaType": MANIFEST}
        pushed = aws.call("ecr", "PutImage", repositoryName="gpt2", **image)
        return str(pushed["image"]["imageId"]["imageDigest"])

    @pytest.mark.parametrize("by", ["tag", "digest"])
    def test_the_image_that_only_serves_is_refused(self, by: str, aws: Aws, shell: Shell) -> None:
        digest = self.pushed(aws, {"org.opencontainers.image.title": "gpt2-classifier"})
        image = f"{REGISTRY}/gpt2:1" if by == "tag" else f"{REGISTRY}/gpt2@{digest}"
        assert shell.do(*TRAIN, "--image", image) == 2
        assert "only serves" in shell.text and "TARGET=train" in shell.text
        assert not backend().training_jobs

    def test_an_image_for_another_processor_is_refused(self, aws: Aws, shell: Shell) -> None:
        self.pushed(aws, None, "arm64")
        assert shell.do(*TRAIN, "--image", f"{REGISTRY}/gpt2:1") == 2
        assert "is for arm64" in shell.text and "DOCKER_DEFAULT_PLATFORM=linux/amd64" in shell.text
        assert not backend().training_jobs

    @pytest.mark.parametrize("labels", [None, {}, {"org.opencontainers.image.title": "gpt2-classifier-train"}])
    def test_other_images_are_taken(self, labels: dict[str, str] | None, aws: Aws, shell: Shell) -> None:
        self.pushed(aws, labels)
        assert shell.do(*TRAIN, "--image", f"{REGISTRY}/gpt2:1") == 0, shell.text

    @pytest.mark.parametrize("image", [f"{REGISTRY}/gpt2:2", f"{REGISTRY}/other:1", "registry.example.com/gpt2:1"])
    def test_an_image_that_cannot_be_read_is_left_to_sagemaker(self, image: str, aws: Aws, shell: Shell) -> None:
        self.pushed(aws, None)
        assert shell.do(*TRAIN, "--image", image) == 0, shell.text


class TestUpload:
    def test_an_artifact_becomes_one_archive_and_is_sent_once(self, artifact: Artifact, aws: Aws, shell: Shell) -> None:
        words = ("upload", str(artifact.directory), "s3://models-bucket/models/")
        assert shell.do(*words) == 0, shell.text
        (uri,) = shell.out
        assert uri.startswith("s3://models-bucket/models/") and uri.endswith("/model.tar.gz")
        key = uri.removeprefix("s3://models-bucket/")
        stored = aws.call("s3", "GetObject", Bucket="models-bucket", Key=key)
        with stored["Body"] as body, tarfile.open(fileobj=io.BytesIO(gzip.decompress(body.read()))) as archive:
            assert set(archive.getnames()) == {path.name for path in artifact.directory.iterdir()}
            assert {member.mtime for member in archive.getmembers()} == {0}
        assert shell.do(*words) == 0
        assert shell.out == [uri, uri]
        assert shell.said[-1] == "nothing to send: it is there already"
        assert aws.call("s3", "HeadObject", Bucket="models-bucket", Key=key)["LastModified"] == stored["LastModified"]

    def test_data_keeps_its_files_and_only_what_changed_moves(self, tmp_path: Path, aws: Aws, shell: Shell) -> None:
        (tmp_path / "data" / "sub").mkdir(parents=True)
        (tmp_path / "data" / "train.csv").write_text("text,label\na,b\n", encoding="utf-8")
        (tmp_path / "data" / "sub" / "val.csv").write_text("text,label\nc,d\n", encoding="utf-8")
        (tmp_path / "data" / ".hidden").write_text("x", encoding="utf-8")
        words = ("upload", str(tmp_path / "data"), "s3://models-bucket/data")
        assert shell.do(*words) == 0, shell.text
        assert shell.out[0].endswith("/")
        keys = [one["Key"] for one in aws.pages("s3", "ListObjectsV2", "Contents", Bucket="models-bucket")]
        prefix = shell.out[0].removeprefix("s3://models-bucket/")
        assert sorted(keys) == [f"{prefix}sub/val.csv", f"{prefix}train.csv"]
        (tmp_path / "data" / "train.csv").write_text("text,label\na,e\n", encoding="utf-8")
        assert shell.do(*words) == 0
        assert shell.out[1] != shell.out[0]

    def test_large_files_go_in_parts(self, tmp_path: Path, aws: Aws, shell: Shell, monkeypatch: MonkeyPatch) -> None:
        monkeypatch.setattr("training.sagemaker.launch.aws.PART_BYTES", 5 * 1024 * 1024)
        (tmp_path / "big.bin").write_bytes(b"0123456789" * 600_000)
        assert shell.do("upload", str(tmp_path / "big.bin"), "s3://models-bucket/") == 0, shell.text
        key = shell.out[0].removeprefix("s3://models-bucket/")
        head = aws.call("s3", "HeadObject", Bucket="models-bucket", Key=key)
        assert head["ContentLength"] == 6_000_000
        assert head["ETag"].strip('"').endswith("-2")  # of two parts

    def test_a_damaged_artifact_is_refused(self, artifact_copy: Artifact, shell: Shell) -> None:
        with (artifact_copy.directory / "model.safetensors").open("r+b") as file:
            file.seek(200)
            file.write(b"\xff\xfe")
        assert shell.do("upload", str(artifact_copy.directory), "s3://b/p", "--dry-run") == 2
        assert "model.safetensors" in shell.text

    def test_a_bucket_that_is_not_there(self, tmp_path: Path, aws: Aws, shell: Shell) -> None:
        (tmp_path / "a.csv").write_text("a", encoding="utf-8")
        assert shell.do("upload", str(tmp_path / "a.csv"), "s3://no-such-bucket/p") == 1
        assert "no-such-bucket" in shell.text

    @pytest.mark.parametrize("destination", ["bucket/prefix", "s3://", "https://bucket/x"])
    def test_no_location_in_s3(self, destination: str) -> None:
        with pytest.raises(LaunchError, match="s3://BUCKET"):
            bucket_and_key(destination)

    def test_links_and_empty_directories_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(LaunchError, match="no file"):
            find_files(tmp_path / "empty")
        (tmp_path / "empty" / "link").symlink_to("/etc/hostname")
        with pytest.raises(LaunchError, match="is a symbolic link"):
            find_files(tmp_path / "empty")

    def test_the_digest_is_of_names_and_contents(self, tmp_path: Path) -> None:
        digests = set()
        for name, content in (("a", "1"), ("b", "1"), ("a", "2")):
            path = tmp_path / content / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
            digests.add(digest_of(find_files(path)))
        assert len(digests) == 3


def queue(url: str, path: str, result: dict[str, Any]) -> None:
    """Set what moto's endpoint will answer."""
    content = {"account_id": ACCOUNT, "region": REGION, "results": [result]}
    post(f"{url}/moto-api/static/sagemaker/{path}", content)


ASYNC = ("invoke", "--name", "news", "--async", "--input", "s3://models-bucket/in.json")


class TestInvoke:
    def test_prints_the_answer(self, aws: Aws, moto_url: str, shell: Shell) -> None:
        body = '{"sport": 0.98}'
        queue(moto_url, "endpoint-results", {"Body": body, "ContentType": "application/json"})
        assert shell.do("invoke", "--name", "news", "--text", "The striker scored.") == 0, shell.text
        assert shell.out == [body]

    def test_a_file_has_the_type_of_its_name(self, aws: Aws, tmp_path: Path, shell: Shell) -> None:
        (tmp_path / "texts.csv").write_text("One.\nTwo.\n", encoding="utf-8")
        assert shell.do("invoke", "--name", "news", "--file", str(tmp_path / "texts.csv"), "--dry-run") == 0
        request = json.loads(shell.out[0])[0]["request"]
        assert (request["ContentType"], request["Body"]) == ("text/csv", "One.\nTwo.\n")
        (tmp_path / "texts.bin").write_text("One.", encoding="utf-8")
        assert shell.do("invoke", "--name", "news", "--file", str(tmp_path / "texts.bin")) == 2
        assert "--content-type" in shell.text

    def test_the_models_own_error_is_shown(self, aws: Aws, shell: Shell, monkeypatch: MonkeyPatch) -> None:
        error = {"Error": {"Code": "ModelError", "Message": "Received client error (422) from primary"},
                 "OriginalStatusCode": 422, "OriginalMessage": '{"error": "the text is empty"}'}  # fmt: skip

        def refuse(client: Any, operation: str, request: Any) -> Any:
            raise ClientError(error, operation)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", refuse)
        assert shell.do("invoke", "--name", "news", "--text", "") == 1
        assert shell.said[-1] == 'error: the model answered 422: {"error": "the text is empty"}'

    @pytest.mark.parametrize(("data", "code"), [('{"sport": 0.98}', 0), ("no memory", 1)])
    def test_async_waits_for_the_answer_in_s3(
        self, data: str, code: int, aws: Aws, moto_url: str, shell: Shell
    ) -> None:
        queue(moto_url, "async-endpoint-results", {"data": data, "is_failure": bool(code)})
        assert shell.do(*ASYNC) == code, shell.text
        assert data.strip("{}") in (shell.said if code else shell.out)[-1].replace("\\", "")

    def test_async_gives_up_waiting(self, aws: Aws, shell: Shell, monkeypatch: MonkeyPatch) -> None:
        monkeypatch.setattr("training.sagemaker.launch.invoke._read_object", lambda *_: None)
        shell.waits = [lambda: None] * 3
        assert shell.do(*ASYNC, "--wait-s", "20") == 1
        assert "no answer within 20 s" in shell.said[-1]
