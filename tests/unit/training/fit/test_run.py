"""Training for real: two layers, width 16, seconds on a CPU."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import sklearn
import torch

from classifier.artifact import Artifact, read_artifact
from classifier.errors import ArtifactError, ModelError
from service.model.load_engine import load_torch_engine
from service.settings import Settings
from tests.support.runs import run
from tests.support.texts import documents, news_rows
from tests.support.tiny_teacher import write_teacher
from training.__main__ import main
from training.config import DataConfig, DistilConfig, TrainConfig
from training.data.files import name_of
from training.errors import ConfigError, DataError, LeakError
from training.fit.distil import distil
from training.fit.run import report_directory
from training.report.evaluate import evaluate
from training.report.predict import predict_logits

QUICK = {"max_seq_len": 32, "epochs": 8.0, "batch_size": 8, "lr": 5e-3, "dropout": 0.0, "seed": 5}


@pytest.fixture
def config(news_csv: Path, base_model: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(data=str(news_csv), base_model=str(base_model), output=str(tmp_path / "out" / "model"), **QUICK)  # type: ignore[arg-type]


def changed(config: TrainConfig, **values: object) -> TrainConfig:
    return dataclasses.replace(config, **values)  # type: ignore[arg-type]


def test_calibration_can_be_fitted_again_without_training(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(config)
    manifest = before.directory / "manifest.json"
    stored = json.loads(manifest.read_text(encoding="utf-8"))
    spoilt = stored | {"calibration": {"points": [{"tokens": 5, "temperature": 9.0}]}}
    manifest.write_text(json.dumps(spoilt), encoding="utf-8")
    command = ["calibrate", "--artifact", config.output, "--data"]
    assert main([*command, config.data]) == 0
    assert json.loads(manifest.read_text(encoding="utf-8")) == stored
    capsys.readouterr()
    other = tmp_path / "other.csv"
    other.write_text(Path(config.data).read_text(encoding="utf-8") + "sport,more words about sport\n", encoding="utf-8")
    assert main([*command, str(other)]) == 2
    assert "not the texts that model was trained on" in capsys.readouterr().err
    manifest.write_text(json.dumps(stored | {"provenance": {"recipe": {"unheard": 1}}}), encoding="utf-8")
    assert main([*command, config.data]) == 2
    assert "unheard" in capsys.readouterr().err


def test_run_writes_a_whole_artifact_that_learnt(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = run(config)
    manifest = artifact.manifest
    assert manifest.labels == ["business", "politics", "sport"]
    assert manifest.metrics["rows"] == 6 and manifest.metrics["accuracy"] >= 0.8
    assert 0 <= manifest.metrics["baseline"]["accuracy"] <= 1
    assert manifest.provenance["split_sizes"] == {"train": 48, "val": 6, "test": 6}
    assert manifest.provenance["recipe"]["lr"] == 5e-3 and "confusion" not in manifest.metrics
    assert manifest.provenance["processes"] == 1 and manifest.provenance["training_seconds"] > 0
    assert manifest.provenance["precision"] in ("float32", "bfloat16") and manifest.provenance["device"]
    assert manifest.provenance["versions"]["scikit-learn"] == sklearn.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", manifest.provenance["git_commit"] or "0" * 40)
    assert (manifest.max_tokens, manifest.window_stride, manifest.name) == (32, 24, "model")
    assert math.isclose(sum(manifest.reference["label_shares"].values()), 1.0, abs_tol=1e-5)
    # nothing but the artifact and its report is left: no checkpoints, no half directory
    assert sorted(path.name for path in Path(config.output).parent.iterdir()) == ["model", "model-report"]
    report = Path(config.output).with_name("model-report")
    page = (report / "report.html").read_text(encoding="utf-8")
    precision = re.findall(r"precision</t[dh]>\s*<td[^>]*>(\w+)", page)
    assert precision == [manifest.provenance["precision"]] and (report / "curves.png").is_file()
    output = capsys.readouterr().out
    assert "step=48/48; train_runtime=" in output
    stages = re.findall(r"^stage=(\w+); seconds=\d+\.\d;$", output, re.MULTILINE)
    assert stages == ["data", "tokenise", "baseline", "train", "measure", "write", "report"]


def test_stored_golden_logits_are_those_of_the_stored_weights(config: TrainConfig) -> None:
    artifact = run(changed(config, weights_dtype="float16", epochs=1.0, baseline=False))
    assert_golden_logits_are_the_stored_weights_own(artifact)


def assert_golden_logits_are_the_stored_weights_own(artifact: Artifact) -> None:
    logits = predict_logits(artifact.model(), artifact.encoder(), [g.text for g in artifact.manifest.golden])
    expected = torch.tensor([g.logits for g in artifact.manifest.golden])
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=1e-5)


def test_artifact_trained_in_bfloat16_is_measured_and_served_in_float32(config: TrainConfig, tmp_path: Path) -> None:
    trained = changed(config, precision="bfloat16", baseline=False, checkpoints=str(tmp_path / "checkpoints"))
    artifact = run(trained)
    assert_golden_logits_are_the_stored_weights_own(artifact)
    engine = load_torch_engine(Settings(model_dir=artifact.directory, precision="float32"))
    assert engine.info.golden_difference < 1e-5
    # A run that finds itself finished does not train, and must measure the same.
    again = run(changed(trained, overwrite=True))
    assert again.manifest.golden == artifact.manifest.golden and again.manifest.metrics == artifact.manifest.metrics


def test_seconds_of_training_are_those_of_all_attempts(config: TrainConfig, tmp_path: Path) -> None:
    from training.fit.checkpoints import latest_complete

    first = changed(config, baseline=False, report=False, epochs=4.0, checkpoints=str(tmp_path / "checkpoints"))
    run(first)
    newest = latest_complete(Path(first.checkpoints))
    assert newest is not None
    shutil.rmtree(newest)  # so that the last epoch is trained again
    state = latest_complete(Path(first.checkpoints)) / "trainer_state.json"  # type: ignore[operator]
    stored = json.loads(state.read_text(encoding="utf-8"))
    for entry in stored["log_history"]:
        entry["seconds"] += 1000.0
    state.write_text(json.dumps(stored), encoding="utf-8")
    marker = state.with_name("COMPLETE")
    marker.write_text("{}", encoding="utf-8")
    older = report_directory(first) / "report.html"
    older.parent.mkdir()
    older.write_text("another model", encoding="utf-8")
    again = run(changed(first, overwrite=True))
    assert not older.exists()
    assert 1000 < again.manifest.provenance["training_seconds"] < 1100


def test_same_seed_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    versions = {
        run(changed(config, output=str(tmp_path / name), epochs=1.0, baseline=False)).weights_sha256 for name in "ab"
    }
    assert len(versions) == 1
    other = run(changed(config, output=str(tmp_path / "c"), epochs=1.0, baseline=False, seed=6))
    assert other.weights_sha256 not in versions


def test_crops_and_dense_loss_learn_too(config: TrainConfig) -> None:
    artifact = run(changed(config, max_seq_len=16, crops=True, dense_from=4, baseline=False, epochs=12.0))
    assert artifact.manifest.metrics["accuracy"] >= 0.8 and artifact.manifest.provenance["recipe"]["crops"] is True


@pytest.mark.parametrize(
    "options",
    [{"layer_lr_decay": 0.8}, {"average": 0.5, "precision": "bfloat16"}, {"head": "flatten"}],
    ids=str,
)
def test_options_of_the_loop_learn_too(config: TrainConfig, options: dict[str, object]) -> None:
    artifact = run(changed(config, baseline=False, epochs=12.0, **options))
    assert artifact.manifest.metrics["accuracy"] >= 0.8
    assert artifact.manifest.head == options.get("head", "last_token")


def test_frozen_layers_are_the_bases_own(config: TrainConfig) -> None:
    from classifier.model import load_base
    from tests.support.tiny_model import LABELS

    artifact = run(changed(config, baseline=False, epochs=1.0, freeze_embeddings=True, freeze_layers=1))
    before, after = load_base(config.base_model, LABELS).state_dict(), artifact.model().state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {"transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.mlp.c_fc.weight"} <= same
    assert "transformer.h.1.mlp.c_fc.weight" not in same


def test_soft_labels_of_a_teacher_are_learnt_and_resumed(config: TrainConfig, tmp_path: Path) -> None:
    """A run that lost its last checkpoint ends with the same weights, without the work of the teacher."""
    write_teacher(tmp_path / "teacher")
    (tmp_path / "corpus.txt").write_text("\n<|endoftext|>\n".join(documents()), encoding="utf-8")
    distil(
        DistilConfig(
            corpus=(str(tmp_path / "corpus.txt"),), teacher=str(tmp_path / "teacher"), base_model=config.base_model,
            output=str(tmp_path / "student"), passages=1024, max_tokens=32, steps=1, val_fraction=0.2,
        )
    )  # fmt: skip
    taught = changed(
        config, teacher_labels=str(tmp_path / "teacher"), unlabelled=str(tmp_path / "student-checkpoints" / "vectors"),
        unlabelled_passages=30, short_crops=1, epochs=4.0, dense_from=8, class_weights=True, teacher_weight=0.3,
        checkpoints=str(tmp_path / "checkpoints"), report=False,
    )  # fmt: skip
    artifact = run(taught)
    assert artifact.manifest.metrics["accuracy"] >= 0.8
    recipe = artifact.manifest.provenance["recipe"]
    assert (recipe["teacher_labels"], recipe["unlabelled"]) == ("teacher", "vectors")
    [rows] = (tmp_path / "checkpoints").glob("soft-rows*")
    steps = sorted((tmp_path / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert int(steps[-1].name.split("-")[1]) == 4 * math.ceil((48 * 2 + 30) / 8)
    shutil.rmtree(steps[-1])
    before = rows.stat().st_mtime_ns
    again = run(changed(taught, output=str(tmp_path / "again")))
    assert rows.stat().st_mtime_ns == before
    for name, tensor in artifact.model().state_dict().items():
        torch.testing.assert_close(again.model().state_dict()[name], tensor, rtol=0, atol=0)


def test_data_comes_from_any_file_system(config: TrainConfig, news_csv: Path) -> None:
    import fsspec

    with fsspec.open("memory://bucket/news.csv", "wb") as file:
        file.write(news_csv.read_bytes())
    artifact = run(changed(config, data="memory://bucket/news.csv", baseline=False, epochs=1.0))
    assert artifact.manifest.provenance["data"] == "news.csv"
    with fsspec.open("memory://bucket/broken.csv", "wb") as file:
        file.write(b"text,label\n,a\n")
    with pytest.raises(DataError, match=r"memory://bucket/broken\.csv, row 1 .*the text is empty"):
        run(changed(config, data="memory://bucket/broken.csv", overwrite=True))
    with pytest.raises(DataError, match=r"memory://bucket/none\.csv: cannot be fetched"):
        run(changed(config, data="memory://bucket/none.csv", overwrite=True))


def test_query_of_a_signed_url_is_never_recorded() -> None:
    assert name_of("https://host/bucket/news.csv?X-Amz-Signature=secret") == "news.csv"
    assert name_of("data/news/") == "news" and name_of("/a/b.txt.xz") == "b.txt.xz"


def test_card_repeats_the_run_and_nothing_names_a_place_of_the_machine(config: TrainConfig) -> None:
    directory = run(changed(config, epochs=1.0)).directory
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "--lr 0.005" in card and "--seed 5" in card and "TF-IDF + logistic regression" in card
    for place in (config.data, config.output, config.base_model):
        assert str(Path(place).parent) not in card + (directory / "manifest.json").read_text(encoding="utf-8")


def test_interrupted_run_leaves_nothing(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.fit.trainer import ClassifierTrainer

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassifierTrainer, "compute_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert list(Path(config.output).parent.iterdir()) == []


def test_what_can_be_refused_is_refused_before_training(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.fit.run.fine_tune", lambda *_: pytest.fail("training began"))
    refused: list[tuple[type[Exception], str, dict[str, object]]] = [
        (ConfigError, r"hidden-size is 768, but base model .* is 16 wide", {"hidden_size": 768}),
        (ConfigError, r"max-seq-len is 512, but base model .* has 128 positions", {"max_seq_len": 512}),
        (ConfigError, r"freeze-layers is 3, but base model .* has 2 blocks", {"freeze_layers": 3}),
        (ConfigError, "within the output", {"checkpoints": config.output + "/checkpoints"}),
        (ModelError, "none", {"base_model": str(tmp_path / "none")}),
        (ConfigError, "both data and output", {"data": ""}),
        (ArtifactError, "something other", {"output": str(tmp_path / "taken")}),
    ]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for kind, message, settings in refused:
        with pytest.raises(kind, match=message):
            run(changed(config, **settings))
    assert not Path(config.output).parent.exists()


def test_leaking_split_is_refused_or_warned_about(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = news_rows(60)
    parts = {"train": rows[:40], "val": rows[40:50], "test": [*rows[50:], rows[0]]}
    for name, part in parts.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    leaky = changed(config, data=str(tmp_path), epochs=1.0, baseline=False)
    with pytest.raises(LeakError, match="1 of 11 test texts also occur in train"):
        run(leaky)
    artifact = run(changed(leaky, allow_leaks=True))
    assert "warning: 1 of 11 test texts also occur in train" in capsys.readouterr().err
    told = "The given split leaks: 1 of 11 test texts also occur in train"
    assert artifact.manifest.provenance["held_out"].startswith(told)
    assert artifact.manifest.provenance["leaks"][0]["exact"] == 1
    for page in (artifact.directory / "README.md", Path(config.output).with_name("model-report") / "report.html"):
        content = page.read_text(encoding="utf-8")
        assert told in content and "None of them is a" not in content and "never saw" not in content


@pytest.mark.parametrize(
    ("searched", "told"),
    [
        (True, "None of them is a copy or near-duplicate of a training or validation text."),
        (False, "None of them is a copy of a training or validation text. Near-duplicates were not searched."),
    ],
)
def test_card_says_what_was_searched(config: TrainConfig, searched: bool, told: str) -> None:
    artifact = run(changed(config, near_duplicates=searched, epochs=1.0, baseline=False, report=False))
    assert told in (artifact.directory / "README.md").read_text(encoding="utf-8")


def test_card_does_not_say_that_near_duplicates_named_by_a_column_were_searched(
    config: TrainConfig, tmp_path: Path
) -> None:
    rows = [row | {"near_dup_group": i} for i, row in enumerate(news_rows(60))]
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    artifact = run(changed(config, data=str(tmp_path / "named.jsonl"), epochs=1.0, baseline=False, report=False))
    told = (artifact.directory / "README.md").read_text(encoding="utf-8")
    assert "or has one as near-duplicate by column near_dup_group. Near-duplicates were not searched." in told


def test_card_says_what_a_text_was_made_of(config: TrainConfig, tmp_path: Path) -> None:
    rows = news_rows(60)
    expected = {"text": 60 * [""], "title, blank line, text": [f"News {i}" for i in range(60)]}
    expected["title, blank line, text in 20 of 60 rows, and the text alone in the others"] = 20 * ["News"] + 40 * [""]
    for told, titles in expected.items():
        path = tmp_path / "titled.jsonl"
        lines = [json.dumps(row | {"title": title}) for row, title in zip(rows, titles, strict=True)]
        path.write_text("\n".join(lines), encoding="utf-8")
        settings = {"data": str(path), "overwrite": True, "epochs": 0.1, "baseline": False, "report": False}
        artifact = run(changed(config, **settings))
        assert artifact.manifest.input == told
        assert f"Each text is made of: {told}." in (artifact.directory / "README.md").read_text(encoding="utf-8")


def test_a_report_that_fails_does_not_lose_the_model(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("cannot be drawn")

    monkeypatch.setattr("training.report.html.write_report", fail)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    places = ["--data", config.data, "--base-model", config.base_model, "--output", config.output]
    assert main(["train", *places, *words, "--epochs=1", "--no-baseline"]) == 0
    told = capsys.readouterr()
    assert f"warning: no report was written to {config.output}-report: ValueError: cannot be drawn\n" in told.err
    assert told.out.endswith(f"wrote {config.output}\n") and read_artifact(config.output).manifest.metrics["rows"] == 6


def test_text_that_clean_up_leaves_empty_is_reported(config: TrainConfig, news_csv: Path) -> None:
    news_csv.write_text(news_csv.read_text(encoding="utf-8") + "sport,\u0085\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 61"):
        run(config)


def test_evaluate_gives_the_runs_own_figures(config: TrainConfig, tmp_path: Path) -> None:
    artifact = run(changed(config, epochs=2.0, baseline=False))
    path = tmp_path / "new.jsonl"
    path.write_text("\n".join(map(json.dumps, news_rows(30, seed=9))), encoding="utf-8")
    measured = evaluate(artifact.directory, DataConfig(data=str(path)), report=tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()
    texts = [row["text"] for row in news_rows(30, seed=9)]
    loaded = read_artifact(artifact.directory)
    predicted = predict_logits(loaded.model(), loaded.encoder(), texts).argmax(axis=1)
    truth = [loaded.labels.id_of(row["label"]) for row in news_rows(30, seed=9)]
    assert measured["accuracy"] == pytest.approx((predicted == truth).mean())
    path.write_text('{"text": "x", "label": "weather"}', encoding="utf-8")
    with pytest.raises(DataError, match="'weather' is none of business, politics, sport"):
        evaluate(artifact.directory, DataConfig(data=str(path)))


def test_evaluate_takes_groups_from_the_data_as_a_run_does(artifact: Artifact, tmp_path: Path) -> None:
    rows = news_rows(30, seed=9)
    rows.append({**rows[0], "text": rows[0]["text"] + " Indeed."})
    found = {}
    for column in ("group", "near_dup_group"):
        path = tmp_path / f"{column}.jsonl"
        path.write_text("\n".join(json.dumps(row | {column: i}) for i, row in enumerate(rows)), encoding="utf-8")
        found[column] = evaluate(artifact.directory, DataConfig(data=str(path)))["groups"]
    assert found == {"group": 30, "near_dup_group": 31}


def test_a_classifier_is_a_base_only_if_asked_and_the_card_says_so(
    config: TrainConfig, artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    from_classifier = changed(config, base_model=str(artifact.directory), epochs=1.0, baseline=False)
    with pytest.raises(ModelError, match="--allow-classifier-base"):
        run(from_classifier)
    made = run(changed(from_classifier, allow_classifier_base=True))
    assert "is a classifier already. Its head is replaced" in capsys.readouterr().err
    assert made.manifest.provenance["base_was_classifier"] is True
    card = (made.directory / "README.md").read_text(encoding="utf-8")
    assert "was a classifier already, so that it may have been trained on texts of this test split" in card
