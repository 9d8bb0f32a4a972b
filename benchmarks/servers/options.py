"""The command line of the compared servers. Standard library only, for any environment."""

import argparse
from pathlib import Path


def parse(description: str | None) -> argparse.Namespace:
    """Return the artifact's directory, the most tokens of a text, the port and the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--artifact", type=Path, required=True)
    for name in ("--tokens", "--port", "--threads"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args()
