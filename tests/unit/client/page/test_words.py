"""What the page says."""

import pytest
from markdown_it import MarkdownIt

from client import errors
from client.errors import ClientError
from client.models import Explanation, Prediction, Score, Sentence, Timing
from client.page.words import (
    SHORT_WORDS,
    TROUBLE,
    explained,
    milliseconds,
    notes,
    pace,
    plain,
    reading,
    sentence_rows,
    trouble,
)

LONG = "word " * SHORT_WORDS


def prediction(**fields: object) -> Prediction:
    return Prediction(label="sport", score=0.9, scores=[Score(label="sport", score=0.9)], **fields)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "![x](http://tracker.example/p.png) [a](javascript:alert(1)) <http://a.example>",
        "# not a title\n\n- no list\n1. none\n> no quote\n```\nno code\n```\n***\n===",
        ":red[no colour] $x^2$ :smile: `code` ~~no~~ **no** __no__ | a | b |",
        "http://a.example www.a.example a@example.org",
    ],
)
def test_plain_text_stays_plain(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(plain(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == " ".join(text.split())


def test_streamlits_own_marks_are_escaped_too() -> None:
    assert plain(":red[a] $b$ :smile:") == r"\:red\[a\] \$b\$ \:smile\:"


def test_every_error_of_the_client_has_a_title_of_its_own() -> None:
    def branches(kind: type[ClientError]) -> list[type[ClientError]]:
        return [kind, *(sub for one in kind.__subclasses__() for sub in branches(one))]

    titled = set(TROUBLE)
    groups = {ClientError, errors.NoAnswer, errors.AnswerError}
    for kind in branches(ClientError):
        assert kind in groups or any(issubclass(kind, one) for one in titled), kind
    assert len({title for title, _ in TROUBLE.values()}) == len(TROUBLE)


def test_an_error_says_what_to_do_and_nothing_in_it_is_markdown() -> None:
    title, what = trouble(errors.ConnectionFailed("http://x: refused <b>"))
    assert title == "The service does not answer" and r"\<b\>" in what and "`make serve`" in what
    title, what = trouble(errors.Overloaded("busy", status=429))
    assert title == "The service is busy" and what.startswith("busy")
    title, _ = trouble(errors.DeadlineExceeded("late", status=504))
    assert title == "The service took too long"
    assert trouble(ClientError("x"))[0] == "Something went wrong"


def test_notes() -> None:
    assert notes(LONG, prediction()) == []
    assert notes("Goal!", prediction())[0].startswith("The text has only 1 word.")
    assert notes("a b", prediction())[0].startswith("The text has only 2 words.")
    assert notes(LONG, prediction(unsure=True)) == ["The model is unsure: a person should check this answer."]
    assert notes(LONG, prediction(truncated=True, tokens=1234, tokens_read=256)) == [
        "The model read only the first 256 of 1,234 tokens."
    ]


def test_reading_says_what_is_known() -> None:
    assert reading(prediction(), 0.0123) == [("Time in all", "12 ms")]
    timing = Timing(tokenize_ms=1, model_ms=2, total_ms=3)
    assert reading(prediction(tokens=1000, windows=5, timing=timing), 1.5) == [
        ("Tokens", "1,000"),
        ("Windows", "5"),
        ("Time in the service", "3 ms"),
        ("Time in all", "1.5 s"),
    ]


def test_milliseconds() -> None:
    assert [milliseconds(ms) for ms in (0.4, 999, 1000, 65_000)] == ["0 ms", "999 ms", "1.0 s", "65.0 s"]


EXPLANATION = Explanation(
    label="politics",
    log_odds=4.4,
    sentences=[
        Sentence(start=0, end=2, contribution=-0.2, alone=1.0),
        Sentence(start=3, end=5, contribution=0.7, alone=None),
        Sentence(start=6, end=8, contribution=None, alone=2.0),
    ],
    sum=0.5,
    remainder=3.9,
)


def test_an_explanation_states_sum_and_remainder() -> None:
    said = explained(EXPLANATION)
    assert "log-odds of politics" in said and "up to +0.5" in said and "has +4.4, so +3.9 is left over" in said
    assert "Sentences that say the same share this rest" in said
    assert "explain nearly all of it" in explained(EXPLANATION.model_copy(update={"remainder": 0.1}))


def test_the_table_begins_with_the_strongest() -> None:
    assert sentence_rows("a. b. c.", EXPLANATION) == [
        {"sentence": "b.", "left out": 0.7, "alone": None},
        {"sentence": "a.", "left out": -0.2, "alone": 1.0},
        {"sentence": "c.", "left out": None, "alone": 2.0},
    ]


def test_pace() -> None:
    assert pace(1200, 4800, 12.0) == "1,200 rows, 100 rows/s, 36 s left"
    assert pace(0, 5, 0.0) == "0 rows, 0 rows/s"
    assert pace(10, 10, 5.0) == "10 rows, 2 rows/s"
