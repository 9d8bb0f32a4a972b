"""Pages for people, rendered from the Jinja templates beside this module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

SHOWN_LABELS = 30
"""Most labels of which a page shows every row of results and the whole confusion matrix."""

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["zip"] = zip
_ENVIRONMENT.filters["cell"] = lambda text: text.replace("|", "\\|").replace("\n", " ")


def render(template: str, **values: object) -> str:
    """Return a page; values are escaped in HTML, and the filter `cell` makes a text safe in a Markdown table."""
    return _ENVIRONMENT.get_template(template).render(**values)


def label_results(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the results of each label; of more than `SHOWN_LABELS` those with the lowest F1 among the labels that have
    texts.
    """
    results: dict[str, dict[str, float]] = metrics["per_class"]
    if len(results) <= SHOWN_LABELS:
        return results
    with_texts = [item for item in results.items() if item[1]["rows"]]
    return dict(sorted(with_texts, key=lambda item: item[1]["f1"])[:SHOWN_LABELS])
