"""The report of a run or an evaluation: one self-contained HTML page, metrics.json, and the plots as PNG files.

It is written for a sceptical reader: intervals beside every figure, the baseline beside the model, and the worst
mistakes in full. It shows metrics that were computed elsewhere. Labels and texts are shown by the page alone, not by
the plots, because a browser has fonts for every script, and matplotlib takes "$" for the beginning of a formula.
"""

import base64
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.report.metrics import ECE_BINS, reliability
from training.report.pages import SHOWN_LABELS, label_results, render

PAGE, METRICS = "report.html", "metrics.json"
MISTAKES = 12
SNIPPET_CHARS = 280
SHOWN_CONFUSIONS = 30
INK, ACCENT, SOFT = "#222222", "#1f5fa8", "#c9d8ea"
STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK}


@dataclass(frozen=True)
class ReportData:
    """The content of a report.

    `metrics` comes from `training.report.evaluate.measure`. `probs_bc` are calibrated, (B, C) float64; `texts` and
    `truth` (label ids) have B entries. `by_words` maps a number of words to the accuracy if only these are read; 0 is
    the whole text. `log` is the log of the Trainer, empty for an evaluation.
    """

    title: str
    labels: Sequence[str]
    texts: Sequence[str]
    truth: Sequence[int]
    probs_bc: NDArray[np.float64]
    metrics: Mapping[str, Any]
    by_words: Mapping[int, float]
    held_out: str = "Whether the model was trained on some of them was not checked."
    """What is known about texts that training saw, too."""
    rows: Sequence[int] = ()
    """Rows of the texts in their file; if empty, texts are counted from 1."""
    log: Sequence[Mapping[str, float]] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    """Rows of the table "How it was made"."""


def remove_report(directory: Path) -> None:
    """Remove an older report, which is about another model."""
    for name in (PAGE, METRICS):
        (directory / name).unlink(missing_ok=True)


def try_report(data: Callable[[], ReportData], directory: Path) -> Path | None:
    """Write a report and return its page; if that fails, say why on stderr, because the model and its figures are good.

    Args:
        data: computes the content.
        directory: as in `write_report`. An older report there is removed first.
    """
    try:
        remove_report(directory)
        return write_report(data(), directory)
    except Exception as exc:
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())
        sys.stderr.write(f"warning: no report was written to {directory}: {reason:.300}\n")
        return None


def write_report(data: ReportData, directory: Path) -> Path:
    """Write report.html, metrics.json and the plots, replacing existing ones, and return the path of the page."""
    plots: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        for name, figure in _figures(data).items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=144, bbox_inches="tight", metadata={"Software": ""})
            plots[name] = buffer.getvalue()
    page = render(
        "report.html.j2",
        data=data,
        metrics=data.metrics,
        results=label_results(data.metrics),
        confusion=_confusion_matrix(data) if len(data.labels) <= SHOWN_LABELS else None,
        confusions=frequent_confusions(data),
        mistakes=worst_mistakes(data),
        plots={name: base64.b64encode(content).decode("ascii") for name, content in plots.items()},
    )
    stored = {**data.metrics, "accuracy_by_words_read": {str(n): a for n, a in data.by_words.items()}}
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in plots.items():
        (directory / f"{name}.png").write_bytes(content)
    (directory / METRICS).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    path = directory / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def frequent_confusions(data: ReportData) -> list[dict[str, Any]]:
    """Return at most `SHOWN_CONFUSIONS` pairs of true label and wrong answer, the most frequent first.

    Each has `truth`, `answer`, `texts` (their number) and `share` (of the texts of the true label).
    """
    truth, predicted = np.asarray(data.truth), data.probs_bc.argmax(axis=1)
    wrong = predicted != truth
    pairs, counts = np.unique(np.stack([truth[wrong], predicted[wrong]]), axis=1, return_counts=True)
    of_label = np.bincount(truth, minlength=len(data.labels))
    return [
        {
            "truth": data.labels[pairs[0, i]],
            "answer": data.labels[pairs[1, i]],
            "texts": int(counts[i]),
            "share": float(counts[i] / of_label[pairs[0, i]]),
        }
        for i in np.argsort(-counts, kind="stable")[:SHOWN_CONFUSIONS]
    ]


def worst_mistakes(data: ReportData) -> list[dict[str, Any]]:
    """Return at most `MISTAKES` wrong answers, the most confident first."""
    predicted = data.probs_bc.argmax(axis=1)
    wrong = np.flatnonzero(predicted != np.asarray(data.truth))
    ranked = wrong[np.argsort(-data.probs_bc[wrong].max(axis=1), kind="stable")][:MISTAKES]
    return [
        {
            "row": data.rows[i] if data.rows else int(i) + 1,
            "truth": data.labels[data.truth[i]],
            "predicted": data.labels[predicted[i]],
            "confidence": float(data.probs_bc[i].max()),
            "text": data.texts[i][:SNIPPET_CHARS] + ("..." if len(data.texts[i]) > SNIPPET_CHARS else ""),
        }
        for i in ranked
    ]


def _figures(data: ReportData) -> dict[str, Figure]:
    figures = {"reliability": _reliability(data.probs_bc, data.truth)}
    if any(data.by_words):  # no text has many words if the script has no spaces between them
        figures["words"] = _by_words(data.by_words)
    if any("loss" in entry for entry in data.log):
        figures["curves"] = _curves(data.log)
    return figures


def _confusion_matrix(data: ReportData) -> list[list[tuple[int, float]]]:
    """Return the number of texts in each cell, and their share of the texts of the true label, a row of the matrix."""
    counts = np.zeros((len(data.labels), len(data.labels)), dtype=int)
    np.add.at(counts, (np.asarray(data.truth), data.probs_bc.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [list(zip(*row, strict=True)) for row in zip(counts.tolist(), shares.tolist(), strict=True)]


def _reliability(probs_bc: NDArray[np.float64], truth: Sequence[int]) -> Figure:
    found = reliability(probs_bc, truth)
    figure = Figure(figsize=(4.6, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    upper.bar(
        [(min(int(one["confidence"] * ECE_BINS), ECE_BINS - 1) + 0.5) / ECE_BINS for one in found],
        [one["right"] for one in found],
        width=0.9 / ECE_BINS,
        color=SOFT,
        edgecolor=ACCENT,
    )
    upper.set_ylabel("right answers")
    upper.set_ylim(0, 1.02)
    upper.set_xlim(0, 1)
    lower.hist(probs_bc.max(axis=1), bins=np.linspace(0, 1, ECE_BINS + 1), color=ACCENT)
    lower.set_yscale("log")
    lower.set_ylabel("texts")
    lower.set_xlabel("confidence (calibrated)")
    return figure


def _by_words(by_words: Mapping[int, float]) -> Figure:
    counts = sorted(n for n in by_words if n)
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.subplots()
    axes.plot(counts, [by_words[n] for n in counts], marker="o", color=ACCENT)
    if 0 in by_words:
        axes.axhline(by_words[0], color="#999999", linestyle="--", linewidth=1)
        axes.text(counts[0], by_words[0], "whole text", va="bottom", color="#666666")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.set_xlabel("words read")
    axes.set_ylabel("accuracy")
    axes.grid(axis="y", color="#eeeeee")
    return figure


def _curves(log: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(5.2, 3.2))
    axes = figure.subplots()
    for key, name, color in (("loss", "training loss", SOFT), ("eval_loss", "validation loss", ACCENT)):
        points = [(entry["epoch"], entry[key]) for entry in log if key in entry]
        axes.plot(*zip(*points, strict=True), label=name, color=color, marker="o" if key == "eval_loss" else None)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure
