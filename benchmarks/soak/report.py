"""A soak's figures as JSON and as a page of Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import say
from benchmarks.soak.ledger import Promise
from benchmarks.tables import table


def write(directory: Path, name: str, figures: dict[str, Any], promises: Sequence[Promise]) -> bool:
    """NAME.json and NAME.md in the directory; true if every promise was kept."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = all(promise.kept for promise in promises)
    content = {"kept": kept, "promises": [vars(promise) for promise in promises], **figures}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = markdown(figures, promises)
    (directory / f"{name}.md").write_text(page, encoding="utf-8")
    say(page)
    say(f"written: {directory / name}.json and .md")
    return kept


def markdown(figures: dict[str, Any], promises: Sequence[Promise]) -> str:
    """The page: promises first, then the figures that are single numbers or small maps."""
    broken = sum(not promise.kept for promise in promises)
    lines = [f"# {figures.get('title', 'Soak')}", "", f"`{figures.get('command', '')}`", ""]
    lines += [f"{broken} of {len(promises)} promises broken." if broken else "Every promise was kept.", ""]
    rows = [["yes" if promise.kept else "**NO**", promise.what, promise.found] for promise in promises]
    lines += [table(["kept", "promise", "found"], rows), ""]
    lines += [table(["figure", ""], [[name, _shown(figures[name])] for name in _short(figures)]), ""]
    if figures.get("examples"):
        lines += ["Examples of what went wrong:", "", *(f"- `{one}`" for one in figures["examples"]), ""]
    return "\n".join(lines)


def _short(figures: dict[str, Any]) -> list[str]:
    return [name for name in figures if name not in ("samples", "examples", "machine", "title", "command")]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(one)}" for name, one in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
