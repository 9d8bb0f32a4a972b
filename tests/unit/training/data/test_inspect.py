import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.texts import news_rows
from training.__main__ import main
from training.config import DataConfig
from training.data.inspect import report_data
from training.errors import ConfigError, DataError


def write(path: Path, rows: list[dict[str, str]]) -> DataConfig:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return DataConfig(data=str(path))


def reported(directory: Path, rows: list[dict[str, str]]) -> tuple[dict[str, Any], str]:
    """Return the facts of the rows, and the page about them."""
    facts = report_data(write(directory / "news.jsonl", rows), directory / "report")
    assert json.loads((directory / "report" / "data.json").read_text(encoding="utf-8")) == facts
    return facts, (directory / "report" / "data.md").read_text(encoding="utf-8")


def test_wrong_label_and_double_story_are_found(tmp_path: Path) -> None:
    rows = news_rows(120)
    rows[7]["label"] = "politics"  # a business text: labels come in turn
    rows[6]["label"] = "sport"
    rows.append({"label": "politics", "text": rows[0]["text"] + " More."})
    assert rows[0]["label"] == "business"
    facts, page = reported(tmp_path, rows)
    assert facts["rows"] == 121 and facts["near_duplicate_groups"] == 120 and facts["largest_group"] == 2
    assert facts["labels"] == {"business": 39, "politics": 41, "sport": 41}
    assert facts["groups_with_several_labels"] == [{"rows": ["1", "121"], "labels": ["business", "politics"]}]
    found = {s["row"]: (s["label"], s["other"]) for s in facts["suspicious"]}
    assert found["7"] == ("sport", "business")
    assert len(found) <= 6  # most of the 120 are what they say
    assert "- rows 1, 121: business, politics" in page and "| 7 | sport |" in page


def test_group_column_is_named(tmp_path: Path) -> None:
    rows = news_rows(60)
    assert "Rows with the same value" not in reported(tmp_path, rows)[1]
    facts, page = reported(tmp_path, [row | {"group": str(i // 2)} for i, row in enumerate(rows)])
    assert facts["group_columns"] == ["group"] and facts["near_duplicate_groups"] == 30
    assert "Rows with the same value in column group count as one group." in page


def test_leaks_of_a_given_split_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = news_rows(60)
    write(tmp_path / "train.jsonl", rows[:40])
    write(tmp_path / "val.jsonl", rows[40:50])
    write(tmp_path / "test.jsonl", [*rows[50:], rows[3]])
    assert main(["inspect", "--data", str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    assert "leaks=1;" in capsys.readouterr().out
    page = (tmp_path / "report" / "data.md").read_text(encoding="utf-8")
    assert "- 1 of 11 test texts also occur in train" in page and "train 40, val 10, test 11" in page


def test_rare_labels_do_not_stop_the_others_from_being_checked(tmp_path: Path) -> None:
    rows = news_rows(120)
    rows[6]["label"] = "sport"
    rows[7]["label"] = "weather"
    facts, page = reported(tmp_path, rows)
    assert facts["labels_not_checked"] == ["weather"] and facts["suspicious"][0]["row"] == "7"
    assert "they have too few texts: weather." in page
    assert facts["labels_too_small"] == ["weather"] and "for all three parts: weather." in page


def test_one_class_is_reported_too_and_clean_data_says_so(tmp_path: Path) -> None:
    facts, _ = reported(tmp_path, [row | {"label": "sport"} for row in news_rows(6)])
    assert facts["labels"] == {"sport": 6} and facts["labels_not_checked"] == ["sport"]
    assert "None." in reported(tmp_path, news_rows(90))[1]


def test_unusable_data_and_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        report_data(DataConfig(data=str(tmp_path / "none.csv")), tmp_path / "report")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        report_data(write(tmp_path / "news.jsonl", news_rows(60)), tmp_path / "file")
