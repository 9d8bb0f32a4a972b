"""Counts of requests and answers, the promises that were kept or broken, and the summary of both."""

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak.answers import problem
from benchmarks.soak.requests import SoakRequest
from benchmarks.tools.command_line import say
from benchmarks.tools.http1 import Response
from benchmarks.tools.markdown import table
from benchmarks.tools.statistics import percentile

EXAMPLES = 20
"""Number of failures that are kept in full."""

NOT_SHOWN = ("samples", "examples", "machine", "title", "command")
"""Figures that are in the JSON file only."""


@dataclass(frozen=True)
class Promise:
    """Something that must hold, and what was found."""

    what: str
    kept: bool
    found: str


@dataclass
class Tally:
    """Counts of requests and answers, filled in as answers come.

    Args:
        tolerance: Largest difference of a probability from the one that the text got alone.
    """

    tolerance: float
    sent: Counter[str] = field(default_factory=Counter)
    """Number of requests of each kind."""
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    """Requests whose client closed the connection on purpose."""
    lost: int = 0
    """Requests whose client waited and got no complete answer."""
    wrong: int = 0
    """Answers with a right status whose content differs from what the texts got alone."""
    unexpected: Counter[int] = field(default_factory=Counter)
    """Number of answers with each status that their request must not get."""
    examples: list[str] = field(default_factory=list)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("f"))

    @property
    def done(self) -> int:
        """Requests that have ended."""
        return self.statuses.total() + self.left + self.lost

    @property
    def broken(self) -> int:
        """Requests that ended as they must not."""
        return self.lost + self.wrong + self.unexpected.total()

    def lose(self, request: SoakRequest, why: str) -> None:
        """Count a lost request."""
        self.lost += 1
        self._example(f"lost: {request.kind}: {why}")

    def answer(self, request: SoakRequest, response: Response, latency_s: float) -> None:
        """Count and judge an answer."""
        self.statuses[response.status] += 1
        self.latencies_ms.append(1000 * latency_s)
        if response.status not in request.right:
            self.unexpected[response.status] += 1
            self._example(f"unexpected: {request.kind}: {response.status} {response.body[:200]!r}")
            return
        right = request.right[response.status]
        found = problem(response.body, *right, self.tolerance) if right else None
        if found:
            self.wrong += 1
            self._example(f"wrong: {request.kind}: {found}")

    def _example(self, text: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)
            say(text)

    def promises(self) -> list[Promise]:
        """Return the promises that the answers alone can prove."""
        faults = sum(n for status, n in self.unexpected.items() if status >= 500)
        others = self.unexpected.total() - faults
        total = self.sent.total()
        shown = f"{self.wrong} wrong answers; a probability may differ by {self.tolerance:g}"
        return [
            Promise("every request whose client waited got an answer", self.lost == 0, f"{self.lost} lost"),
            Promise("each request had one outcome", self.done == total, f"{self.done} outcomes of {total} requests"),
            Promise("each text is answered as alone", self.wrong == 0, shown),
            Promise("no 5xx except where a fault was injected", faults == 0, f"{faults} others"),
            Promise("every other status is the one that the request must get", others == 0, f"{others} others"),
        ]

    def summary(self) -> dict[str, Any]:
        """Return counts and latencies for JSON."""
        times = list(self.latencies_ms)
        return {
            "sent": self.sent.total(),
            "answered": self.statuses.total(),
            "left": self.left,
            "lost": self.lost,
            "wrong": self.wrong,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "unexpected": {str(status): n for status, n in sorted(self.unexpected.items())},
            "kinds": dict(self.sent.most_common()),
            "latency_ms": {f"p{q}": percentile(times, q) for q in (50, 95, 99)} | {"max": max(times, default=0.0)},
            "examples": self.examples,
        }


def memory_promise(grown: float | None, allowed: float, done: int, judged_from: int, unit: str) -> Promise:
    """Return the promise that memory did not grow after the first tenth. It is judged only after enough work.

    Args:
        grown: Share by which it grew; None: unknown.
        allowed: Largest share that is accepted.
        done: Requests or lines in all.
        judged_from: Fewest requests or lines for which memory is judged.
        unit: "requests" or "lines".
    """
    shown = "too few samples" if grown is None else f"{100 * grown:+.2f} %, {100 * allowed:.0f} % are allowed"
    what = f"memory does not grow after a tenth of the {unit}"
    if done < judged_from:
        return Promise(what, True, f"{shown}; not judged below {judged_from} {unit}")
    return Promise(what, grown is not None and grown <= allowed, shown)


def write(directory: Path, name: str, figures: dict[str, Any], promises: Sequence[Promise]) -> bool:
    """Write NAME.json and NAME.md; return whether every promise was kept."""
    directory.mkdir(parents=True, exist_ok=True)
    broken = sum(not promise.kept for promise in promises)
    content = {"kept": not broken, "promises": [vars(promise) for promise in promises], **figures}
    (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    verdict = f"{broken} of {len(promises)} promises broken." if broken else "Every promise was kept."
    parts = [
        f"# {figures.get('title', 'Soak')}\n\n`{figures.get('command', '')}`\n\n{verdict}",
        table(["kept", "promise", "found"], [["yes" if p.kept else "**NO**", p.what, p.found] for p in promises]),
        table(["figure", ""], [[key, _shown(value)] for key, value in figures.items() if key not in NOT_SHOWN]),
    ]
    if figures.get("examples"):
        parts.append("Examples of failures:\n\n" + "\n".join(f"- `{one}`" for one in figures["examples"]))
    page = "\n\n".join(parts) + "\n"
    (directory / f"{name}.md").write_text(page, encoding="utf-8")
    say(f"{page}\nwritten: {directory / name}.json and .md")
    return not broken


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(one)}" for name, one in value.items()) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
