"""What was sent, what came back, and which promises held."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import percentile
from benchmarks.load import Response
from benchmarks.options import say
from benchmarks.soak.answers import problem
from benchmarks.soak.asks import Ask

EXAMPLES = 20
"""Of each sort of trouble that are kept in full."""


@dataclass(frozen=True)
class Promise:
    """Something that must hold, and what was found."""

    what: str
    kept: bool
    found: str


@dataclass
class Ledger:
    """Filled in as answers come.

    Args:
        tolerance: how far a probability may be from the one that the text had alone.
    """

    tolerance: float
    sent: Counter[str] = field(default_factory=Counter)
    """By kind of request."""
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    """Requests whose client hung up, as it meant to."""
    lost: int = 0
    wrong: int = 0
    """Answers of a status that was right, and with another content than the texts had alone."""
    unexpected: Counter[int] = field(default_factory=Counter)
    """Statuses that the request should not get."""
    examples: list[str] = field(default_factory=list)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("f"))

    @property
    def answered(self) -> int:
        return self.statuses.total()

    @property
    def done(self) -> int:
        return self.answered + self.left + self.lost

    def send(self, ask: Ask) -> None:
        self.sent[ask.kind] += 1

    def leave(self) -> None:
        self.left += 1

    def lose(self, ask: Ask, why: str) -> None:
        """The client stayed and got nothing."""
        self.lost += 1
        self._example(f"lost: {ask.kind}: {why}")

    def answer(self, ask: Ask, response: Response, latency_s: float) -> None:
        """Judge an answer."""
        self.statuses[response.status] += 1
        self.latencies_ms.append(1000 * latency_s)
        if response.status not in ask.right:
            self.unexpected[response.status] += 1
            self._example(f"unexpected: {ask.kind}: {response.status} {response.body[:200]!r}")
            return
        right = ask.right[response.status]
        found = problem(response.body, *right, self.tolerance) if right else None
        if found:
            self.wrong += 1
            self._example(f"wrong: {ask.kind}: {found}")

    def _example(self, text: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)
            say(text)  # the reason should not have to wait for the end

    def promises(self) -> list[Promise]:
        """Those that the answers alone can prove."""
        faults = sum(n for status, n in self.unexpected.items() if status >= 500)
        others = self.unexpected.total() - faults
        total = self.sent.total()
        return [
            Promise("every request that waited got an answer", self.lost == 0, f"{self.lost} lost"),
            Promise("each request had one outcome", self.done == total, f"{self.done} outcomes of {total} requests"),
            Promise(
                "each text is answered as alone",
                self.wrong == 0,
                f"{self.wrong} wrong answers; a probability may differ by {self.tolerance:g}",
            ),
            Promise("no 5xx but where a fault was injected", faults == 0, f"{faults} others"),
            Promise("every other status is the one that the request deserves", others == 0, f"{others} others"),
        ]

    def summary(self) -> dict[str, Any]:
        """Counts and latencies, for JSON."""
        times = list(self.latencies_ms)
        return {
            "sent": self.sent.total(),
            "answered": self.answered,
            "left": self.left,
            "lost": self.lost,
            "wrong": self.wrong,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "unexpected": {str(status): n for status, n in sorted(self.unexpected.items())},
            "kinds": dict(self.sent.most_common()),
            "latency_ms": {f"p{q}": percentile(times, q) for q in (50, 95, 99)} | {"max": max(times, default=0.0)},
            "examples": self.examples,
        }
