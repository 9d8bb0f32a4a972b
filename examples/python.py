"""Use the service through its Python client: `python -m examples.python [URL]`, in the repository's root.

The default of URL is CLASSIFIER_URL, or http://localhost:8080 if that is not set. CLASSIFIER_API_KEY is the API key.
"""

import sys
from collections.abc import Iterator

from client import BadText, Client, ClientError

TEXTS = [
    "The striker scored twice in the cup final.",
    "",
    "Shares in the bank fell after a profit warning.",
    "MPs have voted to tighten the rules on lobbying.",
]


def main(url: str | None) -> None:
    with Client(url) as client:
        client.ready(timeout_s=60)
        info = client.info()
        print(f"{info.model.name} {info.model.version}: {', '.join(info.model.labels)}")

        # one text
        answer = client.predict("The film won best picture.", top_k=2)
        print(f"{answer.label} {answer.score:.3f}{' (unsure)' if answer.unsure else ''}")

        # many texts from any iterable: answers come in order, and an error takes the place of a missing answer
        for text, outcome in zip(TEXTS, client.predict_many(TEXTS), strict=True):
            print(f"{text[:30]!r}: {outcome.label if outcome.ok else outcome.error}")

        # texts that arrive one by one: each answer is yielded as soon as it is ready
        for outcome in client.stream(as_they_come()):
            print(outcome.label if outcome.ok else outcome.error)

        # the class of an error tells a program what it can do about it
        try:
            client.predict("")
        except BadText as error:
            print(f"{type(error).__name__}: {error.kind}")


def as_they_come() -> Iterator[str]:
    yield from TEXTS


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except ClientError as error:
        sys.exit(f"error: {error}")
