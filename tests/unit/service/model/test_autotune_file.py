"""What a start has measured serves the next start, and nothing wrong in the file can stop or change it."""

from dataclasses import asdict
from pathlib import Path

import pytest

from classifier.artifact import Artifact
from service.model import load_engine, measure
from service.model.autotune import BudgetTrial, LaneTrial, PrecisionTrial
from service.model.autotune_file import AutotuneFile, Tuning
from service.model.load_engine import load_torch_engine
from service.settings import Settings

TUNING = Tuning(
    lanes=2,
    threads=1,
    lane_trials=(LaneTrial(1, 2, 100.0), LaneTrial(2, 1, 150.0)),
    precision="bfloat16",
    precision_trials=(PrecisionTrial("bfloat16", "chosen", 200.0, 0.01), PrecisionTrial("int8", "not on this CPU")),
    max_batch_tokens=512,
    budget_trials=(BudgetTrial(512, 300.0),),
)


def test_what_was_written_is_read_on_the_same_machine_only(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "when needed"
    AutotuneFile(str(directory), {"machine": "this"}).write(TUNING)
    assert AutotuneFile(str(directory), {"machine": "this"}).read() == TUNING
    assert AutotuneFile(str(directory), {"machine": "other"}).read() is None
    assert [path.suffix for path in directory.iterdir()] == [".json"]


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"for": "{}", "tuning": {"lanes": "many"}}'])
def test_unusable_file_is_replaced(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file = AutotuneFile(str(tmp_path), {})
    assert file.path is not None
    file.path.write_text(content, encoding="utf-8")
    assert file.read() is None
    assert "cannot be used, measuring anew" in caplog.text
    file.write(TUNING)
    assert file.read() == TUNING


def test_nothing_is_kept_where_no_file_can_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    for directory in ("", str(tmp_path / "file" / "below")):
        file = AutotuneFile(directory, {})
        file.write(TUNING)
        assert file.read() is None
    assert not caplog.records


def test_second_start_measures_nothing(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model_dir=artifact.directory, autotune_dir=str(tmp_path))
    first = load_torch_engine(settings).info
    assert first.budget_trials and first.precision_trials

    def measured(*_: object) -> None:
        raise AssertionError("measured again")

    for name in ("fastest_lanes", "fastest_precision"):
        monkeypatch.setattr(load_engine, name, measured)
    monkeypatch.setattr(measure, "choose_budget", measured)
    second = load_torch_engine(settings).info
    assert asdict(second) | {"golden_difference": 0.0} == asdict(first) | {"golden_difference": 0.0}
    monkeypatch.setattr(load_engine, "machine", lambda: "another CPU")
    with pytest.raises(AssertionError, match="measured again"):
        load_torch_engine(settings)
