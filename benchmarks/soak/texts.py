"""Short texts, most of 5 to 15 tokens, made from a seed: the soak tests requests, not the model's speed."""

import random
import re

WORDS = re.findall(
    r"\w+",
    """shares profit bank market firm sales growth investors merger price dollar quarter minister parliament vote party
    election government law debate policy leader bill tax goal match team coach season cup player win league striker
    injury final film actor award album singer band festival director music television drama phone software internet
    computer users games digital broadband chip search network security the a on with after before new old first last
    and said that for many few will has was in of to by from year week two million record against over under""",
)
ODDITIES = ("café", "naïve", "€5m", "東京", "😀", "Zürich", "O'Neill", '"quoted"', "comma, semicolon;", "<b>", "\t")
"""Words of several bytes, or with a meaning in CSV, HTML or JSON."""

USUAL_WORDS = (3, 11)
LONGER = {1000: 400, 100: 60}
"""Every 1000th text has 400 words, which the default model reads in several windows; every 100th has 60."""

ODD_EACH = 12


def make_texts(count: int, seed: int) -> list[str]:
    """Return `count` different texts; each ends with its number."""
    rng = random.Random(seed)
    return [_text(rng, number) for number in range(1, count + 1)]


def _text(rng: random.Random, number: int) -> str:
    length = next((words for each, words in LONGER.items() if number % each == 0), None) or rng.randint(*USUAL_WORDS)
    words = rng.choices(WORDS, k=length)
    if number % ODD_EACH == 0:
        words.insert(rng.randrange(length), rng.choice(ODDITIES))
    return f"{' '.join(words)} {number}"
