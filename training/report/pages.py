"""Pages for people, rendered from the Jinja templates beside this module."""

from pathlib import Path

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["cell"] = lambda text: text.replace("|", "\\|").replace("\n", " ")


def render(template: str, **values: object) -> str:
    """Return a page; values are escaped in HTML, and the filter `cell` makes a text safe in a Markdown table."""
    return _ENVIRONMENT.get_template(template).render(**values)
