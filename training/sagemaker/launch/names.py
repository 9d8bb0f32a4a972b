"""Names that SageMaker takes: at most 63 letters, digits and hyphens, a letter or digit at both ends."""

import datetime
import re

MAX_LENGTH = 63
STAMP = "%Y%m%d-%H%M%S"


def valid_name(base: str, *, room: int = 0) -> str:
    """`base` with everything else turned into single hyphens, cut to leave `room` characters.

    ASCII only; `gpt2` where nothing is left.
    """
    words = re.sub(r"[^a-zA-Z0-9]+", "-", base).strip("-")
    return words[: MAX_LENGTH - room].rstrip("-") or "gpt2"


def stamped_name(base: str, now: datetime.datetime) -> str:
    """`base-20260131-235959`: the same for the same base and second, in UTC."""
    stamp = now.astimezone(datetime.UTC).strftime(STAMP)
    return f"{valid_name(base, room=len(stamp) + 1)}-{stamp}"
