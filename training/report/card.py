"""The model card: Markdown made from the manifest alone."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from classifier.artifact import Manifest
from training.config import TrainConfig
from training.options import flag
from training.report.pages import SHOWN_LABELS, label_results, render

HEADS = {"last_token": "the last token", "flatten": "all positions, padded on the left"}


def model_card(manifest: Manifest) -> str:
    """Return Markdown with a model's figures, origin and limits."""
    recipe = manifest.provenance.get("recipe", {})
    return render(
        "card.md.j2",
        manifest=manifest,
        metrics=manifest.metrics,
        results=label_results(manifest.metrics) if manifest.metrics else {},
        shown_labels=SHOWN_LABELS,
        made=manifest.provenance,
        recipe=recipe,
        head=HEADS[manifest.head],
        command=_command(recipe),
        pairs=lambda values: ", ".join(f"{key} {value}" for key, value in values.items()),
    )


def _command(recipe: Mapping[str, Any]) -> list[str]:
    """Return the command that repeats the run, one option per line; options at their default are left out."""
    lines = ["python -m training train --data DATA --base-model BASE --output DIR"]
    for field in dataclasses.fields(TrainConfig):
        value = recipe.get(field.name, field.default)
        if field.name in ("sources", "limits") or (value == field.default and field.name != "seed"):
            continue
        if isinstance(value, bool):
            lines.append(flag(field.name) if value else flag(f"no_{field.name}"))
        else:
            lines.append(f"{flag(field.name)} {json.dumps(value) if isinstance(value, str) else value}")
    return lines
