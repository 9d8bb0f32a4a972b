"""The handlers for AWS's own images, and the archive and source directory that bring them there."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from classifier.artifact import Artifact, read_artifact
from classifier.decoding import probabilities
from classifier.errors import ArtifactError
from classifier.packed import PackedClassifier
from tests.support import ROOT, invocation_cases
from training.report.predict import predict_logits
from training.sagemaker.handlers import inference
from training.sagemaker.job.pack import export_source, main, pack

TEXT = "The striker scored twice in the final."


def ask(body: object, model: inference.ArtifactClassifier) -> object:
    prediction = inference.predict_fn(inference.input_fn(json.dumps(body), "application/json"), model)
    answer, content_type = inference.output_fn(prediction, "application/json")
    assert content_type == "application/json"
    return json.loads(answer)


@pytest.fixture(scope="module")
def served(artifact: Artifact) -> inference.ArtifactClassifier:
    return inference.model_fn(str(artifact.directory))


def test_the_articles_request_and_answer(artifact: Artifact, served: inference.ArtifactClassifier) -> None:
    long = " ".join([TEXT] * 30)
    for text in (TEXT, long):
        answer = ask({"text": text}, served)
        logits = predict_logits(artifact.model(), artifact.encoder(), [text])
        expected = dict(zip(artifact.labels.names, probabilities(logits)[0].tolist(), strict=True))
        assert answer == pytest.approx(expected, abs=1e-5)
        assert isinstance(answer, dict) and list(answer.values()) == sorted(answer.values(), reverse=True)


@pytest.mark.parametrize("case", invocation_cases.CASES, ids=lambda case: case.name)
def test_answers_what_the_service_answers(
    case: invocation_cases.InvocationCase, served: inference.ArtifactClassifier
) -> None:
    def ranked(text: str) -> list[tuple[str, Any]]:
        [scores] = served.scores([text])
        assert isinstance(scores, dict)
        return [(label, pytest.approx(score, abs=1e-6)) for label, score in scores.items()]

    assert ask(case.body, served) == case.answer(ranked)


@pytest.mark.parametrize("body", [json.dumps(body) for body in invocation_cases.REFUSED] + ["{", "5", '"a"'])
def test_refuses_what_the_service_refuses(body: str) -> None:
    with pytest.raises(inference.InvocationError) as caught:
        inference.input_fn(body)
    assert caught.value.status_code == 400


def test_a_text_that_cannot_be_classified_has_its_error_in_its_place(served: inference.ArtifactClassifier) -> None:
    error = {"error": "the text is empty", "kind": "empty_text"}
    answers: Any = ask({"inputs": [" ", TEXT]}, served)
    assert answers[0] == error and set(answers[1]) == {"label", "score"}
    assert ask({"instances": [" "]}, served) == {"predictions": [error]}


def test_truncation_reads_the_beginning_only(served: inference.ArtifactClassifier) -> None:
    def answer(text: str, truncation: bool) -> object:
        return ask({"inputs": text, "parameters": {"top_k": None, "truncation": truncation}}, served)

    beginning, end = " ".join(["goal"] * 400), " ".join(["bank"] * 400)
    assert answer(beginning, True) == answer(f"{beginning} {end}", True) != answer(f"{beginning} {end}", False)


def test_empty_text_and_unknown_types_have_a_status(served: inference.ArtifactClassifier) -> None:
    for status, call in {
        400: lambda: ask({"text": " "}, served),
        415: lambda: inference.input_fn("x", "text/csv"),
        406: lambda: inference.output_fn({}, "text/csv"),
    }.items():
        with pytest.raises(inference.InvocationError) as caught:
            call()
        assert caught.value.status_code == status


@pytest.mark.parametrize(("gpu_id", "device"), [(None, "cuda:0"), (0, "cuda:0"), ("1", "cuda:1")])
def test_the_model_is_on_the_gpu_of_its_worker(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, gpu_id: object, device: str
) -> None:
    asked: list[str] = []
    real = Artifact.packed

    def packed(self: Artifact, device: str) -> PackedClassifier:
        asked.append(device)
        return real(self)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Artifact, "packed", packed)
    inference.model_fn(str(artifact.directory), SimpleNamespace(system_properties={"gpu_id": gpu_id}))
    inference.model_fn(str(artifact.directory))
    assert asked == [device, "cuda:0"]


def test_a_machine_that_would_answer_wrongly_is_refused(artifact_copy: Artifact) -> None:
    path = artifact_copy.directory / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["golden"][3]["logits"][1] += 0.01
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"golden texts' logits differ .* by 0\.01"):
        inference.model_fn(str(artifact_copy.directory))


def test_float32_is_computed_without_tf32(artifact: Artifact) -> None:
    torch.set_float32_matmul_precision("high")
    inference.model_fn(str(artifact.directory))
    assert torch.get_float32_matmul_precision() == "highest"


def test_archive_stands_for_itself(artifact: Artifact, tmp_path: Path) -> None:
    """The archive works where Python finds no module of this checkout."""
    assert main([str(artifact.directory), str(tmp_path / "model.tar.gz")]) == 0
    pack(artifact.directory, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == (tmp_path / "model.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        names = {"manifest.json", "model.safetensors", "code/inference.py", "code/classifier/artifact.py"}
        assert names <= set(archive.getnames())
        archive.extractall(tmp_path / "model", filter="data")
    assert read_artifact(tmp_path / "model").manifest == artifact.manifest
    script = (
        "import inference, json, sys; import classifier\n"
        "m = inference.model_fn(sys.argv[1])\n"
        "d = inference.input_fn(json.dumps({'text': sys.argv[2]}))\n"
        "print(json.dumps([inference.output_fn(inference.predict_fn(d, m))[0], classifier.__file__]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model"), TEXT],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "model" / "code")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    answer, place = json.loads(process.stdout)
    assert Path(place).is_relative_to(tmp_path / "model" / "code")
    here = ask({"text": TEXT}, inference.model_fn(str(artifact.directory)))
    assert json.loads(answer) == pytest.approx(here, abs=1e-6)


def test_what_is_no_artifact_is_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "m.tar.gz")]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_no_obstacle(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / ".model.tar.gz.unfinished").write_bytes(b"half")
    assert main([str(artifact.directory), str(tmp_path / "model.tar.gz")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.tar.gz"]


def script_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_deploy", ROOT / "train_deploy.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_serves_as_the_article_does(artifact: Artifact) -> None:
    script = script_module()
    model = script.model_fn(str(artifact.directory))
    answer, _ = script.output_fn(script.predict_fn(script.input_fn(json.dumps({"text": TEXT})), model))
    assert set(json.loads(answer)) == set(artifact.labels.names)


def test_source_directory_has_all_that_the_script_needs(tmp_path: Path) -> None:
    export_source(tmp_path / "code")
    needed = ["train_deploy.py", "requirements.txt", "classifier/model.py"]
    for name in [*needed, "training/fit/run.py", "training/report/report.html.j2"]:
        assert (tmp_path / "code" / name).is_file(), name
    with pytest.raises(FileExistsError):
        export_source(tmp_path / "code")
