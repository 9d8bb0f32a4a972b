"""What the page says, as plain functions of what the client gives: no Streamlit in here."""

import re
from collections.abc import Sequence
from typing import Any

from client.errors import (
    BadRequest,
    BadText,
    ClientError,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    NotOurService,
    Overloaded,
    ServiceFault,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from client.models import Explanation, Prediction

SHORT_WORDS = 15
"""Below this a text says little. models/default is right about 56 % of its 223 test articles by 4 words, about
83 % by 8, 90 % by 16 and 98 % by all."""

TITLES: Sequence[tuple[type[ClientError], str]] = (
    (Unauthorized, "The service wants an API key"),
    (Overloaded, "The service has too much to do"),
    (Unavailable, "The service is not ready"),
    (DeadlineExceeded, "It was not done in time"),
    (TimedOut, "No answer in time"),
    (ConnectionFailed, "The service does not answer"),
    (NotOurService, "Something else answers at this address"),
    (TooLarge, "That is too much for the service"),
    (BadText, "This text cannot be classified"),
    (BadRequest, "The service does not take this request"),
    (ServiceFault, "The service failed"),
    (Unsupported, "Not through a SageMaker endpoint"),
    (ConfigurationError, "This address, key or file cannot be used"),
)
NEXT: dict[type[ClientError], str] = {
    ConnectionFailed: "Is it running? `make serve` starts it. The address stands at the left.",
    Unavailable: "It may still be loading its model. Try again in some seconds.",
    Unauthorized: "Enter the key at the left.",
    TooLarge: "Take a shorter text, or a file with shorter ones.",
    NotOurService: "Check the address at the left.",
}

_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~:$^=&@/])")


def plain(text: str) -> str:
    """Text as Markdown that shows just it: no links, images, colours or formulas. Line breaks become spaces."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def trouble(error: ClientError) -> tuple[str, str]:
    """A title, and Markdown that says what is wrong and what to do."""
    title = next((title for kind, title in TITLES if isinstance(error, kind)), "Something went wrong")
    advice = next((advice for kind, advice in NEXT.items() if isinstance(error, kind)), "")
    return title, f"{plain(str(error))}  \n{advice}" if advice else plain(str(error))


def notes(text: str, prediction: Prediction) -> list[str]:
    """What a reader of the answer should know, in plain sentences."""
    found = []
    words = len(text.split())
    if prediction.unsure:
        found.append("The model is unsure: its best probability is below its threshold. Better let a person decide.")
    if words < SHORT_WORDS:
        found.append(
            f"{words} {'word is' if words == 1 else 'words are'} little to judge by; "
            f"from about {SHORT_WORDS} words on, answers are better."
        )
    if prediction.truncated:
        found.append(f"Only the first {prediction.tokens_read:,} of {prediction.tokens:,} tokens were read.")
    return found


def reading(prediction: Prediction, seconds: float) -> list[tuple[str, str]]:
    """Names and values: what was read, and how long it took."""
    found = []
    if prediction.tokens is not None:
        found.append(("Tokens", f"{prediction.tokens:,}"))
    if prediction.windows is not None:
        found.append(("Windows", f"{prediction.windows:,}"))
    if prediction.timing is not None:
        found.append(("In the service", milliseconds(prediction.timing.total_ms)))
    found.append(("In all", milliseconds(1000 * seconds)))
    return found


def milliseconds(ms: float) -> str:
    return f"{ms / 1000:,.1f} s" if ms >= 1000 else f"{ms:,.0f} ms"


def explained(explanation: Explanation) -> str:
    """What the figures mean, so that nobody reads more into them."""
    left = (
        "The rest is what sentences say together: where several say the same, leaving out one changes little."
        if abs(explanation.remainder) > 0.5
        else "Nearly all of it is theirs."
    )
    return (
        f"Each figure is how much the log-odds of {explanation.label} fall if that sentence alone is left out. They "
        f"add up to {explanation.sum:+.1f}; the whole text has {explanation.log_odds:+.1f}, "
        f"so {explanation.remainder:+.1f} is left over. {left} This is about the model, not about what is true."
    )


def sentence_rows(text: str, explanation: Explanation) -> list[dict[str, Any]]:
    """A table of the sentences, the strongest first."""
    ranked = sorted(explanation.sentences, key=lambda one: -abs(one.contribution or 0.0))
    return [{"sentence": text[one.start : one.end], "left out": one.contribution, "alone": one.alone} for one in ranked]


def pace(rows: int, share: float, seconds: float) -> str:
    """How far a file is: "1,200 rows, 85 rows/s, 40 s left"."""
    rate = rows / max(seconds, 1e-9)
    left = f", {seconds * (1 - share) / share:,.0f} s left" if 0 < share < 1 and seconds > 1 else ""
    return f"{rows:,} rows, {rate:,.0f} rows/s{left}"
