"""The sentences of the page, made from what the client returns. No Streamlit in here."""

import re
from collections.abc import Mapping
from typing import Any

from client import errors
from client.errors import ClientError
from client.models import Explanation, Prediction

SHORT_WORDS = 15
"""Words that a text should have. models/default is right about 56 % of its 223 test articles by 4 words, about
83 % by 8, 90 % by 16 and 98 % by all."""

TROUBLE: Mapping[type[ClientError], tuple[str, str]] = {
    errors.Unauthorized: ("The service asks for an API key", "Enter the key at the left."),
    errors.Overloaded: ("The service is busy", "Try again in some seconds."),
    errors.Unavailable: ("The service is not ready", "It may still be loading its model. Try again in some seconds."),
    errors.DeadlineExceeded: ("The service took too long", ""),
    errors.TimedOut: ("No answer came in time", ""),
    errors.ConnectionFailed: (
        "The service does not answer",
        "Is it running? `make serve` starts it. Its address stands at the left.",
    ),
    errors.NotOurService: ("Another program answers at this address", "Check the address at the left."),
    errors.TooLarge: ("This is too much for the service", "Take a shorter text, or a file with shorter ones."),
    errors.BadText: ("This text cannot be classified", ""),
    errors.BadRequest: ("The service does not accept this request", ""),
    errors.ServiceFault: ("The service failed", ""),
    errors.Unsupported: ("A SageMaker endpoint cannot do this", ""),
    errors.ConfigurationError: ("This address, key or file cannot be used", ""),
}
"""Title and advice for each class of error, special classes before those that they belong to."""

_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~:$^=&@/])")


def plain(text: str) -> str:
    """Return Markdown that shows this text as it is: no links, images, colours or formulas, spaces for line breaks."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def trouble(error: ClientError) -> tuple[str, str]:
    """Return a title, and Markdown that says what is wrong and what to do."""
    found = (said for kind, said in TROUBLE.items() if isinstance(error, kind))
    title, advice = next(found, ("Something went wrong", ""))
    return title, f"{plain(str(error))}  \n{advice}" if advice else plain(str(error))


def notes(text: str, prediction: Prediction) -> list[str]:
    """Return what a reader of the answer should know."""
    found, words = [], len(text.split())
    if prediction.unsure:
        found.append("The model is unsure: a person should check this answer.")
    if words < SHORT_WORDS:
        found.append(
            f"The text has only {words} word{'' if words == 1 else 's'}. The answer is more reliable for "
            f"{SHORT_WORDS} words or more."
        )
    if prediction.truncated:
        found.append(f"The model read only the first {prediction.tokens_read:,} of {prediction.tokens:,} tokens.")
    return found


def reading(prediction: Prediction, seconds: float) -> list[tuple[str, str]]:
    """Return names and values: how much was read, and how long it took."""
    counts = {"Tokens": prediction.tokens, "Windows": prediction.windows}
    found = [(name, f"{count:,}") for name, count in counts.items() if count is not None]
    if prediction.timing is not None:
        found.append(("Time in the service", milliseconds(prediction.timing.total_ms)))
    return [*found, ("Time in all", milliseconds(1000 * seconds))]


def milliseconds(ms: float) -> str:
    return f"{ms / 1000:,.1f} s" if ms >= 1000 else f"{ms:,.0f} ms"


def explained(explanation: Explanation) -> str:
    """Return what the numbers behind the sentences mean, so that nobody reads more into them."""
    rest = (
        "Sentences that say the same share this rest: the model hardly misses one of them while the others are there."
        if abs(explanation.remainder) > 0.5
        else "The sentences explain nearly all of it."
    )
    if not explanation.complete:
        rest += " The text is long: sentences without a number were not left out, as they say least alone."
    return (
        f"The number behind each sentence says how much it speaks for {explanation.label}: the log-odds of "
        f"{explanation.label} fall by so much when that sentence alone is left out (0.7 doubles the odds). The numbers "
        f"add up to {explanation.sum:+.1f}; the whole text has {explanation.log_odds:+.1f}, so "
        f"{explanation.remainder:+.1f} is left over. {rest} This shows what the model relies on, not what is true."
    )


def sentence_rows(text: str, explanation: Explanation) -> list[dict[str, Any]]:
    """Return a table of the sentences, the strongest first."""
    ranked = sorted(explanation.sentences, key=lambda one: -abs(one.contribution or 0.0))
    return [{"sentence": text[one.start : one.end], "left out": one.contribution, "alone": one.alone} for one in ranked]


def pace(rows: int, total: int, seconds: float) -> str:
    """Return how far a file is: "1,200 rows, 85 rows/s, 40 s left"."""
    rate = rows / max(seconds, 1e-9)
    left = f", {(total - rows) / rate:,.0f} s left" if 0 < rows < total and seconds > 1 else ""
    return f"{rows:,} rows, {rate:,.0f} rows/s{left}"
