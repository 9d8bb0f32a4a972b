import json
from pathlib import Path

from benchmarks.seeds import BASELINE, figures, table
from tests.support.runs import run
from tests.support.texts import news_rows
from training.config import TrainConfig


def test_model_and_baseline_read_other_files_by_the_recipes_columns(base_model: Path, tmp_path: Path) -> None:
    for name, rows in {"data": news_rows(60), "other": news_rows(30, seed=9)}.items():
        lines = [json.dumps({"body": row["text"], "kind": row["label"], "text": "", "label": "x"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = TrainConfig(
        data=str(tmp_path / "data.jsonl"), text_column="body", label_column="kind", base_model=str(base_model),
        output=str(tmp_path / "model"), max_seq_len=32, epochs=1.0, baseline=False, report=False,
    )  # fmt: skip
    run(config)
    made = figures(config, [tmp_path / "other.jsonl"])
    assert set(made["sets"]) == {"test", "other"} and made["sets"]["other"][BASELINE]["accuracy"] > 0.8
    assert 0 <= made["sets"]["other"]["model"]["accuracy"] <= 1
    assert [line.split(",")[0] for line in table([made])[2:6]] == ["| test", "| test", "| other", "| other"]
