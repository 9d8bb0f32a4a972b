"""Writes results.md and results.png from the raw figures that the benchmarks saved."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import engine, low_load, overload, service, shared_cpus, start
from benchmarks.tools.command_line import load
from benchmarks.tools.environments import pinned
from benchmarks.tools.statistics import medians

SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("engine-1024", "The forward, articles up to 1024 tokens", engine.report),
    ("engine-128", "The forward, articles up to 128 tokens", engine.report),
    ("service", "Over HTTP", service.report),
    ("low-load", "A single text", low_load.report),
    ("start", "Start and memory", start.report),
    ("overload", "Overload", overload.report),
    ("shared-cpus", "Beside other work, and short texts", shared_cpus.report),
)

COLOURS = ("#c0392b", "#2c3e50", "#2980b9", "#27ae60")


def write(figures: Path, output: Path, made_by: str) -> None:
    """Write `output` (Markdown) and a picture beside it from all figures that exist.

    Args:
        figures: The directory of the JSON files.
        output: The page; the picture has the same name with the suffix .png.
        made_by: The command that is being run, shown to the reader.
    """
    found = {name: loaded for name, _, _ in SECTIONS if (loaded := load(figures, name)) is not None}
    output.parent.mkdir(parents=True, exist_ok=True)
    picture = output.with_suffix(".png")
    parts = ["# Benchmarks", f"Made by `{made_by}`; each section names its own command.", "\n".join(machines(found))]
    if draw(found, picture):
        parts.append(f"![throughput and latency]({picture.name})")
    for name, title, report in SECTIONS:
        parts.append(f"## {title}")
        if name in found:
            parts += [f"`{found[name]['command']}`, {found[name]['machine']['date']}", report(found[name])]
        else:
            parts.append("Not measured.")
    output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def machines(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a line for each machine that a part was measured on, then the versions of other runtimes and servers."""
    lines: dict[str, list[str]] = {}
    for name, figures in found.items():
        machine = figures["machine"]
        line = (
            f"- {machine['cpu']} (family/model/stepping {machine['family_model_stepping']}), {machine['cores']} cores, "
            f"{machine['memory_gib']} GiB; {' '.join(machine['flags']) or 'no relevant flags'}; "
            f"{machine['system']}, Python {machine['python']}, {', '.join(machine['packages'])}"
        )
        lines.setdefault(line, []).append(name)
    shown = [f"{line} ({', '.join(names)})" if len(lines) > 1 else line for line, names in lines.items()]
    environments = dict.fromkeys(name for figures in found.values() for name in figures.get("environments", ()))
    return [*shown, *(f"- {name}: {', '.join(pinned(name))}" for name in environments)]


def draw(found: Mapping[str, dict[str, Any]], path: Path) -> bool:
    """Draw tokens per second of every runtime and latency against throughput of every server.

    Returns:
        Whether there was anything to draw.
    """
    panels: list[Callable[[Any], None]] = []
    for name in ("engine-1024", "engine-128"):
        if name in found and engine.rates(found[name]):
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
    """Draw a bar for each runtime, the slowest at the bottom."""
    measured = sorted(engine.rates(figures).items(), key=lambda item: item[1])
    names = [name for name, _ in measured]
    rates = [rate for _, (rate, _, _) in measured]
    spread = [[r - least for _, (r, least, _) in measured], [most - r for _, (r, _, most) in measured]]
    axes.barh(names, rates, xerr=spread, color=[COLOURS[0] if n.startswith("ours") else "#7f8c8d" for n in names])
    axes.set_xlabel("tokens/s: median, least to most")
    axes.set_title(f"{figures['artifact']}, up to {figures['limit']} tokens")


def _curves(axes: Any, figures: dict[str, Any]) -> None:
    """Draw a point for each number of clients."""
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
