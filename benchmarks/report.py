"""results.md and results.png from the raw figures that the benchmarks saved."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import engine, low_load, overload, service, start
from benchmarks.figures import medians
from benchmarks.options import load

SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("engine-1024", "The forward, articles up to 1024 tokens", engine.report),
    ("engine-128", "The forward, articles up to 128 tokens", engine.report),
    ("service", "Over HTTP", service.report),
    ("low-load", "A single text", low_load.report),
    ("start", "Start and memory", start.report),
    ("overload", "Overload", overload.report),
)

COLOURS = ("#c0392b", "#2c3e50", "#2980b9", "#27ae60")


def write(figures: Path, output: Path, made_by: str) -> None:
    """Write `output` (Markdown) and the picture beside it from whatever figures there are.

    Args:
        figures: the directory of the JSON files.
        output: results.md; the picture has the same name and the suffix .png.
        made_by: the command, for the reader.
    """
    found = {name: loaded for name, _, _ in SECTIONS if (loaded := load(figures, name)) is not None}
    picture = output.with_suffix(".png")
    parts = ["# Benchmarks", "", f"Made by `{made_by}`; each section says its own command.", ""]
    parts += machines(found)
    if draw(found, picture):
        parts += ["", f"![throughput and latency]({picture.name})"]
    for name, title, report in SECTIONS:
        parts += ["", f"## {title}", ""]
        if name in found:
            parts += [f"`{found[name]['command']}`, {found[name]['machine']['date']}", "", report(found[name])]
        else:
            parts.append("Not measured.")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(parts) + "\n", encoding="utf-8")


def machines(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """A line for each machine that a part was measured on, one as a rule; then the peers' versions."""
    lines: dict[str, list[str]] = {}
    for name, figures in found.items():
        machine = figures["machine"]
        packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
        line = (
            f"- {machine['cpu']} (family/model/stepping {machine['family_model_stepping']}), {machine['cores']} cores, "
            f"{machine['memory_gib']} GiB; {' '.join(machine['flags']) or 'no flags that matter'}; "
            f"{machine['system']}, Python {machine['python']}, {packages}"
        )
        lines.setdefault(line, []).append(name)
    several = len(lines) > 1
    shown = [f"{line} ({', '.join(names)})" if several else line for line, names in lines.items()]
    peers = {peer: versions for figures in found.values() for peer, versions in figures.get("peers", {}).items()}
    for peer, versions in peers.items():
        shown.append(f"- {peer}: " + ", ".join(f"{package} {version}" for package, version in versions.items()))
    return shown


def draw(found: Mapping[str, dict[str, Any]], path: Path) -> bool:
    """Tokens a second of every engine; latency against throughput of every service. False: nothing to draw."""
    panels: list[Callable[[Any], None]] = []
    for name in ("engine-1024", "engine-128"):
        if name in found and any(record["turns"] for record in found[name]["contestants"].values()):
            panels.append(lambda axes, figures=found[name]: _bars(axes, figures))  # type: ignore[misc]
    if "service" in found and found["service"]["closed"]:
        panels.append(lambda axes: _curves(axes, found["service"]))
    if not panels:
        return False
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
        for place, panel in enumerate(panels):
            panel(figure.add_subplot(1, len(panels), place + 1))
        figure.savefig(path, dpi=130)
    return True


def _bars(axes: Any, figures: dict[str, Any]) -> None:
    """The best of each family, slowest at the bottom."""
    best: dict[str, dict[str, Any]] = {}
    for row in engine.summary(figures):
        if (
            "unavailable" not in row
            and row["tokens_per_s"] > best.get(row["family"], row | {"tokens_per_s": 0})["tokens_per_s"]
        ):
            best[row["family"]] = row
    rows = sorted(best.values(), key=lambda row: row["tokens_per_s"])
    names = [row["family"] for row in rows]
    rates = [row["tokens_per_s"] for row in rows]
    spread = [[row["tokens_per_s"] - row["least"] for row in rows], [row["most"] - row["tokens_per_s"] for row in rows]]
    axes.barh(names, rates, xerr=spread, color=[COLOURS[0] if n.startswith("ours") else "#7f8c8d" for n in names])
    axes.set_xlabel("tokens/s: median, least to most")
    axes.set_title(f"{figures['artifact']}, up to {figures['limit']} tokens")


def _curves(axes: Any, figures: dict[str, Any]) -> None:
    """One point for each number of clients."""
    for (name, levels), colour in zip(figures["closed"].items(), COLOURS, strict=False):
        merged = [medians(turns) for turns in levels.values()]
        points = [(m["throughput_per_s"], m["p95_ms"]) for m in merged if "p95_ms" in m]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("texts/s")
    axes.set_ylabel("p95 latency, ms")
    clients = list(next(iter(figures["closed"].values())))
    axes.set_title(f"{figures['artifact']}, {clients[0]} to {clients[-1]} clients")
    axes.legend(frameon=False)
