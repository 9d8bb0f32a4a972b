"""The page's own HTML: bars of probabilities, and sentences coloured by their share. All text from outside is escaped
here, and nowhere else does text become HTML.

Colours are veils over the theme's background, so that one set serves light and dark; a test computes their contrast.
Colour never stands alone: each sentence has its number, each bar its percentage.
"""

from collections.abc import Sequence
from html import escape

from client.models import Explanation, Score, Sentence

FOR, AGAINST = (25, 118, 210), (230, 110, 0)  # blue and orange, which nearly everyone can tell apart
MOST = 0.42  # opacity of the strongest veil; with more, text on it falls below a contrast of 4.5 : 1 in one theme
LEAST = 0.06
FAINT = 0.05  # a contribution below this has no colour

STYLE = """<style>
.stMainBlockContainer {padding-top: 3.5rem}
.gc-bars {display: grid; grid-template-columns: minmax(5rem, max-content) 1fr 4rem; gap: .35rem .6rem;
  align-items: center}
.gc-track {background: rgba(128, 128, 128, .18); border-radius: .25rem; height: 1.1rem}
.gc-fill {display: block; background: rgb(25, 118, 210); border-radius: .25rem; height: 100%; min-width: 2px}
.gc-name, .gc-share {overflow-wrap: anywhere}
.gc-share {text-align: right; font-variant-numeric: tabular-nums}
.gc-text {line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere}
.gc-text mark {color: inherit; border-radius: .2rem; padding: .1rem .15rem}
.gc-text sub {font-size: .72em; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: .15rem}
.gc-small {font-size: .875rem; margin: 0}
.gc-key {font-size: .85rem; margin-bottom: .4rem}
.gc-key mark {color: inherit; padding: .1rem .4rem; border-radius: .2rem}
</style>"""


def small(text: str) -> str:
    """Return a line in small letters, in the theme's own colour: Streamlit's captions are too faint."""
    return f'{STYLE}<p class="gc-small">{escape(text)}</p>'


def bars(scores: Sequence[Score]) -> str:
    """Return a bar for each label, most probable first."""
    rows = "".join(
        f'<span class="gc-name">{escape(score.label)}</span>'
        f'<span class="gc-track"><span class="gc-fill" style="width:{100 * score.score:.2f}%"></span></span>'
        f'<span class="gc-share">{100 * score.score:.1f} %</span>'
        for score in scores
    )
    said = ", ".join(f"{score.label} {100 * score.score:.1f} percent" for score in scores)
    return f'{STYLE}<div class="gc-bars" role="img" aria-label="Probabilities: {escape(said)}">{rows}</div>'


def coloured(text: str, explanation: Explanation) -> str:
    """Return the text, each of its sentences coloured by its contribution."""
    most = max((abs(one.contribution or 0.0) for one in explanation.sentences), default=0.0)
    pieces, at = "", 0
    for one in explanation.sentences:
        pieces += escape(text[at : one.start]) + _sentence(text[one.start : one.end], one, most)
        at = one.end
    label = escape(explanation.label)
    return (
        f'{STYLE}<div class="gc-key"><mark style="background:{veil(1.0)}">speaks for {label}</mark> '
        f'<mark style="background:{veil(-1.0)}">speaks against it</mark></div>'
        f'<div class="gc-text">{pieces}{escape(text[at:])}</div>'
    )


def _sentence(words: str, one: Sentence, most: float) -> str:
    if one.contribution is None:
        return escape(words)
    colour = veil(one.contribution / most) if abs(one.contribution) >= FAINT else "none"
    return f'<mark style="background:{colour}">{escape(words)}<sub>{one.contribution:+.1f}</sub></mark>'


def veil(strength: float) -> str:
    """Return a CSS colour for a strength from -1 (against) to 1 (for)."""
    red, green, blue = FOR if strength >= 0 else AGAINST
    return f"rgba({red}, {green}, {blue}, {opacity(strength):.2f})"


def opacity(strength: float) -> float:
    return LEAST + (MOST - LEAST) * min(abs(strength), 1.0)
