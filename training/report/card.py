"""The model card, made from the manifest: nothing in it is typed by hand twice."""

import json
from typing import Any

from classifier.artifact import Manifest

HEADS = {"last_token": "the last token", "flatten": "all positions, padded on the left"}


def model_card(manifest: Manifest) -> str:
    """Markdown with the model's figures, its making and its limits."""
    made = manifest.provenance
    if "converted_from" in made:
        return _conversion_card(manifest)
    recipe = made.get("recipe", {})
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            f"GPT-2 with a linear head on {HEADS[manifest.head]}; {made.get('parameters', 0) / 1e6:.1f} million "
            "parameters.",
            f"Labels: {', '.join(manifest.labels)}.",
            f"Reads {manifest.max_tokens} tokens at once, longer texts by windows that start every "
            f"{manifest.window_stride} tokens. Created {manifest.created}.",
            "",
            "## Measured on the test split",
            "",
            *_figures(manifest.metrics),
            "",
            "## How it was made",
            "",
            f"- Data: `{made.get('data')}`, SHA-256 of its labelled texts `{made.get('data_fingerprint')}`; "
            f"rows: {_pairs(made.get('split_sizes', {}))}; near-duplicate groups kept on one side of the split: "
            f"{made.get('near_duplicate_groups') or 'split given as files'}.",
            f"- Base model: `{made.get('base_model')}`.",
            f"- Versions: {_pairs(made.get('versions', {}))}; commit `{made.get('git_commit')}`.",
            f"- {made.get('training_seconds')} seconds; lowest validation loss while training "
            f"{made.get('best_val_loss')}.",
            "",
            "```",
            "python -m training train --data DATA --base-model BASE --output DIR \\",
            *_flags(recipe),
            "```",
            "",
            *(["## Data and licence", "", recipe["sources"], ""] if recipe.get("sources") else []),
            "## Limits",
            "",
            "The figures hold for texts like those it was trained on. Its probabilities are calibrated on the "
            "validation split of the same data. Every text gets one of the labels, also one that is about none.",
            *(["", recipe["limits"]] if recipe.get("limits") else []),
            "",
        ]
    )


def _conversion_card(manifest: Manifest) -> str:
    made = manifest.provenance
    return "\n".join(
        [
            f"# {manifest.name}",
            "",
            f"GPT-2 with a linear head on {HEADS[manifest.head]}; {made['parameters'] / 1e6:.1f} million parameters.",
            f"Labels: {', '.join(manifest.labels)}.",
            f"Reads the first {manifest.max_tokens} tokens of a text, unless a caller asks for windows. Created "
            f"{manifest.created}.",
            "",
            f"Converted from `{made['converted_from']}`; padding as {made['padded_rows']} computes it, "
            f"{'lower-cased' if manifest.cleaning.lowercase else 'case kept'}. What it was trained on, and how, the "
            "checkpoint does not say.",
            "",
            "## Limits",
            "",
            "Not measured here, and its probabilities are not calibrated: `python -m training evaluate` says how good "
            "it is on labelled texts. Every text gets one of the labels, also one that is about none.",
            "",
        ]
    )


def _figures(measured: dict[str, Any]) -> list[str]:
    if not measured:
        return ["Not measured."]
    calibration = measured["calibration"]
    lines = [
        f"{measured['rows']} texts that training never saw, no near-duplicate of one it saw.",
        "",
        "| with 95 % bootstrap intervals | accuracy | macro-F1 |",
        "| --- | --- | --- |",
        f"| this model | {_with_interval(measured, 'accuracy')} | {_with_interval(measured, 'macro_f1')} |",
    ]
    baseline = measured.get("baseline")
    if baseline:
        cells = _with_interval(baseline, "accuracy"), _with_interval(baseline, "macro_f1")
        lines.append(f"| {baseline['model']} | {' | '.join(cells)} |")
    lines += ["", "| label | precision | recall | F1 | texts |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | {row['rows']} |"
        for name, row in measured["per_class"].items()
    ]
    lines += [
        "",
        f"Calibration error (ECE, 15 bins) {calibration['ece_before']:.4f} before and {calibration['ece']:.4f} after "
        f"the temperature. Answers that are not marked unsure: {calibration['coverage']:.1%} of the texts, "
        f"{calibration['error_among_answered']:.1%} of them wrong.",
    ]
    return lines


def _with_interval(measured: dict[str, Any], key: str) -> str:
    low, high = measured["intervals"][key]
    return f"{measured[key]:.4f} ({low:.4f} to {high:.4f})"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _flags(recipe: dict[str, Any]) -> list[str]:
    """The command line that repeats the run; settings that hold their default value stay out."""
    from training.config import TrainConfig

    default = TrainConfig()
    changed = {
        key: value
        for key, value in recipe.items()
        if key not in {"sources", "limits"} and (value != getattr(default, key) or key == "seed")
    }
    flags = []
    for key, value in changed.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"  --{flag}" if value else f"  --no-{flag}")
        else:
            flags.append(f"  --{flag} {json.dumps(value) if isinstance(value, str) else value}")
    return [line + (" \\" if i < len(flags) - 1 else "") for i, line in enumerate(flags)]
