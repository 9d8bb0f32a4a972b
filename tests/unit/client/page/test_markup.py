"""The page's own HTML."""

from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.models import Explanation, Score, Sentence
from client.page.markup import AGAINST, FOR, STYLE, bars, coloured, opacity, small, veil


class Reader(HTMLParser):
    """Tags, and the text outside of style sheets, keys and figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not any(tag in ("style", "sub") or name == "gc-key" for tag, name in self._open):
            self.text += data


def explanation(text: str, cuts: list[int], label: str = "sport") -> Explanation:
    places = sorted({min(cut, len(text)) for cut in cuts})
    sentences = [
        Sentence(start=a, end=b, contribution=None if i % 5 == 4 else (-1) ** i * i / 3)
        for i, (a, b) in enumerate(pairwise(places))
    ]
    return Explanation(label=label, log_odds=1, sentences=sentences, sum=1, remainder=0)


@given(st.text(), st.lists(st.integers(0, 40)), st.text(min_size=1))
def test_text_and_labels_stay_text(text: str, cuts: list[int], label: str) -> None:
    read = Reader(coloured(text, explanation(text, cuts, label)))
    assert read.text.replace("\r", "") == text.replace("\r", "")
    assert read.tags <= {"style", "div", "mark", "sub"}
    assert Reader(bars([Score(label=label, score=0.5)])).tags == {"style", "div", "span"}


def test_script_tags_are_escaped() -> None:
    text = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    html = coloured(text, explanation(text, [0, 26, len(text)]))
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert "<b>" not in small("<b>")
    assert '"><' not in bars([Score(label='"><script>', score=1.0)]).removeprefix(STYLE).split(">")[0]


def test_each_sentence_has_its_figure() -> None:
    html = coloured("A b. C d.", explanation("A b. C d.", [0, 4, 9]))
    assert "<sub>+0.0</sub>" in html and "<sub>-0.3</sub>" in html
    assert "speaks for sport" in html and "speaks against it" in html


def test_bars_are_said_to_those_who_cannot_see_them() -> None:
    html = bars([Score(label="sport", score=0.75), Score(label="tech", score=0.25)])
    assert 'aria-label="Probabilities: sport 75.0 percent, tech 25.0 percent"' in html and "75.0 %" in html


def test_veils_grow_with_strength_and_tell_for_from_against() -> None:
    assert opacity(0.1) < opacity(0.5) < opacity(1.0) == opacity(7.0)
    assert opacity(-0.5) == opacity(0.5)
    assert veil(1.0) != veil(-1.0) and veil(0.5).startswith("rgba(25, 118, 210, ")


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    "theme", [((255, 255, 255), (49, 51, 63)), ((14, 17, 23), (250, 250, 250))], ids=["light", "dark"]
)
@pytest.mark.parametrize("side", [FOR, AGAINST], ids=["for", "against"])
def test_text_on_the_veils_can_be_read(theme: tuple[tuple[int, ...], tuple[int, ...]], side: tuple[int, ...]) -> None:
    """At least 4.5 : 1, WCAG 2.2's level AA, on Streamlit's published colours."""
    background, text = theme
    alpha = opacity(1.0)
    seen = tuple(alpha * s + (1 - alpha) * b for s, b in zip(side, background, strict=True))
    bright, dark = sorted((luminance(seen), luminance(text)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5
