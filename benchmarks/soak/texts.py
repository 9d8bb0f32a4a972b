"""Short texts, most of 5 to 15 tokens, made from a seed: the soak is about requests, not about the model's speed."""

import random
import re
from collections.abc import Sequence

WORDS = re.findall(
    r"\w+",
    """shares profit bank market firm sales growth investors merger price dollar quarter minister parliament vote party
    election government law debate policy leader bill tax goal match team coach season cup player win league striker
    injury final film actor award album singer band festival director music television drama phone software internet
    computer users games digital broadband chip search network security the a on with after before new old first last
    and said that for many few will has was in of to by from year week two million record against over under""",
)
ODDITIES = ("café", "naïve", "€5m", "東京", "😀", "Zürich", "O'Neill", '"quoted"', "comma, semicolon;", "<b>", "\t")
"""Of several bytes, or with a meaning in CSV, HTML or JSON."""

WORDS_USUAL = (3, 11)
WORDS_LONGER = 60
WORDS_LONGEST = 400
"""More than the default model reads at once: several windows."""

LONGER_EACH = 100
LONGEST_EACH = 1000
ODD_EACH = 12


def make_texts(count: int, seed: int) -> list[str]:
    """`count` texts, no two alike: each ends with its number."""
    rng = random.Random(seed)
    return [_text(rng, number) for number in range(1, count + 1)]


def _text(rng: random.Random, number: int) -> str:
    if number % LONGEST_EACH == 0:
        length = WORDS_LONGEST
    elif number % LONGER_EACH == 0:
        length = WORDS_LONGER
    else:
        length = rng.randint(*WORDS_USUAL)
    words = rng.choices(WORDS, k=length)
    if number % ODD_EACH == 0:
        words.insert(rng.randrange(length), rng.choice(ODDITIES))
    return f"{' '.join(words)} {number}"


def shortest(texts: Sequence[str], count: int) -> list[str]:
    """The `count` texts of fewest characters."""
    return sorted(texts, key=len)[:count]
