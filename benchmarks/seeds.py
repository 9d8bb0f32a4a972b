"""One recipe trained with several seeds, each on a split of its own, beside TF-IDF on the same rows.

    python -m benchmarks.seeds --data bbc.csv --base-model BASE --output work/seeds --other masakha.csv ag.csv

Each seed trains one artifact, OUTPUT/SEED, and is measured on its own test split and on every other file (rows without
a label are left out). A seed whose figures exist already is not run again, so an interrupted run can be continued;
another recipe needs another OUTPUT.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from training.config import DataConfig, TrainConfig, load_config
from training.data.read import read_examples
from training.data.splits import load_splits
from training.report.baseline import CHARACTERS, WORDS, baseline_predictions, fit_baseline, words_suffice
from training.report.evaluate import evaluate
from training.report.metrics import classification_metrics

BASELINE = "TF-IDF"


def figures(config: TrainConfig, others: list[Path]) -> dict[str, Any]:
    """Return accuracy and macro-F1 on every data set, of the artifact at `config.output` and of the baseline."""
    manifest = json.loads((Path(config.output) / "manifest.json").read_text(encoding="utf-8"))
    measured = manifest["metrics"]
    splits = load_splits(config)
    names = splits.labels.names
    train, val = (
        ([e.text for e in part], [splits.labels.id_of(e.label) for e in part]) for part in (splits.train, splits.val)
    )
    features = WORDS if words_suffice(train, val, balanced=config.class_weights) else CHARACTERS
    baseline = fit_baseline([*train[0], *val[0]], [*train[1], *val[1]], features, balanced=config.class_weights)
    sets: dict[str, Any] = {"test": {"model": _scores(measured), "calibration": measured["calibration"]}}
    for name, examples in {
        "test": splits.test,
        **{p.stem: read_examples(p, _columns(config, p), skip_unlabelled=True) for p in others},
    }.items():
        predicted = baseline_predictions(baseline, [e.text for e in examples])
        truth = [splits.labels.id_of(e.label) for e in examples]
        sets.setdefault(name, {})[BASELINE] = _scores(classification_metrics(truth, predicted, names))
    for path in others:
        sets[path.stem]["model"] = _scores(evaluate(Path(config.output), _columns(config, path), skip_unlabelled=True))
    return {"seconds": manifest["provenance"]["training_seconds"], "sets": sets}


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Return mean and range over the runs as lines of Markdown."""
    lines = ["| | accuracy | macro-F1 |", "| --- | --- | --- |"]
    for name in runs[0]["sets"]:
        for who in ("model", BASELINE):
            cells = []
            for key in ("accuracy", "macro_f1"):
                values = [100 * run["sets"][name][who][key] for run in runs]
                cells.append(f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})")
            lines.append(f"| {name}, {who} | " + " | ".join(cells) + " |")
    calibration = [run["sets"]["test"]["calibration"] for run in runs]
    for key in ("ece_before", "ece", "coverage", "error_among_answered"):
        values = [c[key] for c in calibration if c[key] is not None] or [math.nan]
        lines.append(f"| {key} | {mean(values):.4f} ({min(values):.4f}-{max(values):.4f}) | |")
    minutes = [run["seconds"] / 60 for run in runs]
    lines.append(f"| minutes to train | {mean(minutes):.1f} ({min(minutes):.1f}-{max(minutes):.1f}) | |")
    return lines


def _columns(config: TrainConfig, path: Path) -> DataConfig:
    """Return the recipe's layout of columns, from which model and baseline read another file alike."""
    layout = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataConfig)}
    return DataConfig(**layout | {"data": str(path)})


def _scores(measured: dict[str, Any]) -> dict[str, float]:
    return {key: measured[key] for key in ("accuracy", "macro_f1")}


def main() -> None:
    """Train and measure the seeds; print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("training/configs/default.toml"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parsed = parser.parse_args()
    runs = []
    for seed in parsed.seeds:
        output = parsed.output / str(seed)
        record = parsed.output / f"{seed}.json"
        if not record.exists():
            places = {"data": str(parsed.data), "base_model": parsed.base_model, "output": str(output), "seed": seed}
            config = load_config(TrainConfig, parsed.config, places)
            if not output.exists():
                flags = ["--config", str(parsed.config), "--checkpoints", f"{output}-checkpoints", "--no-baseline"]
                flags += [item for key, value in places.items() for item in (f"--{key.replace('_', '-')}", str(value))]
                subprocess.run([sys.executable, "-m", "training", "train", *flags], check=True)
            record.write_text(json.dumps(figures(config, parsed.other), indent=2), encoding="utf-8")
        runs.append(json.loads(record.read_text(encoding="utf-8")))
        print("\n".join([f"\nseeds {parsed.seeds[: len(runs)]}", *table(runs)]), flush=True)


if __name__ == "__main__":
    main()
