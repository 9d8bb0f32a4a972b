"""Draw docs/images/speed.svg, the README's chart, from the tables in benchmarks/results.md."""

import re
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.md"
TARGET = ROOT / "docs" / "images" / "speed.svg"

OURS, OTHERS, INK = "#c1462f", "#6b8cae", "#7d8794"
"""Colours that can be read on a light and on a dark page."""


def column(text: str, section: str, number: int) -> dict[str, float]:
    """Return a column of a section's first table by the names in its first column, without rows that have no number."""
    found = re.search(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit(f"{RESULTS.relative_to(ROOT)} has no section {section!r}; run `make bench`")
    values: dict[str, float] = {}
    for line in found[1].split("\n\n|")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > number and re.fullmatch(r"[\d,.]+", cells[number]):
            values[cells[0]] = float(cells[number].replace(",", ""))
    return values


def main() -> None:
    """Write the chart."""
    text = RESULTS.read_text(encoding="utf-8")
    section = "The forward, articles up to 1024 tokens"
    forward, differences = column(text, section, 1), column(text, section, 7)
    names = {
        "ONNX Runtime int8": f"ONNX Runtime, int8 (logits {differences['ONNX Runtime int8']:.2f} off)",
        "ours int8": f"this project, int8 (logits {differences['ours int8']:.2f} off)",
        "ours float32": "this project, float32",
        "ONNX Runtime float32": "ONNX Runtime, float32",
        "OpenVINO float32, throughput": "OpenVINO, float32",
        "torch.compile float32": "torch.compile, float32",
        "transformers float32, sdpa, alone": "transformers, float32",
    }
    served = column(text, "Over HTTP", 1)
    servers = {
        "ours": "this project",
        "LitServe": "LitServe",
        "BentoML": "BentoML",
        "article's handler": "one text at a time",
    }
    plt.rcParams.update(
        {"font.size": 11, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    )
    plt.rcParams["svg.hashsalt"] = "speed"  # the same file from the same figures
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(3, 2), layout="constrained")
    panels = [
        (axes[0], "The model alone: tokens a second", {names[name]: forward[name] for name in names}),
        (axes[1], "Over HTTP: texts a second", {servers[name]: served[name] for name in servers}),
    ]
    for axis, title, values in panels:
        ordered = sorted(values.items(), key=lambda pair: pair[1])
        colours = [OURS if name.startswith("this project") else OTHERS for name, _ in ordered]
        bars = axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=colours, height=0.7)
        axis.bar_label(
            bars, [f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for _, value in ordered], padding=4, color=INK
        )
        axis.set_title(title, loc="left", color=INK, fontsize=12)
        axis.margins(x=0.12)
        axis.xaxis.set_visible(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.savefig(TARGET, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
