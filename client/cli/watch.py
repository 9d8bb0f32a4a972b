"""The service's live figures in the terminal."""

import time
from collections.abc import Callable
from typing import Any

from client.cli.live import Figures, Reading, figures, parse
from client.client import Client


def read(client: Client, now: Callable[[], float] = time.monotonic) -> Reading:
    """One reading. Raises ClientError."""
    text = client.metrics()
    return parse(text, now(), client.url)


def once(client: Client, interval_s: float, sleep: Callable[[float], None] = time.sleep) -> Figures:
    """The figures of the next `interval_s` seconds. Raises ClientError."""
    before = read(client)
    sleep(interval_s)
    return figures(before, read(client))


def watch(client: Client, interval_s: float, show: Callable[[Figures], None]) -> None:
    """Show figures every `interval_s` seconds until interrupted. Raises ClientError."""
    before = read(client)
    while True:
        time.sleep(interval_s)
        after = read(client)
        show(figures(before, after))
        before = after


def lines(found: Figures) -> list[tuple[str, str]]:
    """What a person reads: name and value."""
    rows = [
        ("model", f"{found.model or 'none'}{'' if found.ready else ' (not ready)'}"),
        ("requests/s", f"{found.requests_per_s:.1f}"),
        ("texts/s", f"{found.texts_per_s:.1f}"),
        ("tokens/s", f"{found.tokens_per_s:.0f}"),
        ("queue", f"{found.queue_items:.0f} windows, {found.queue_tokens:.0f} tokens"),
        ("waiting ms", _percentiles(found.queue_ms)),
        ("batch", "none" if found.batch_items is None else f"{found.batch_items:.1f} windows"),
    ]
    rows += [(f"{endpoint} ms", _percentiles(found_ms)) for endpoint, found_ms in found.latency_ms.items()]
    shown = ", ".join(f"{kind}: {count:.0f}" for kind, count in found.errors.items())
    rows.append(("errors", shown or "none"))
    if found.dropped:
        rows.append(("dropped", f"{found.dropped:.0f} windows"))
    return rows


def _percentiles(found: Any) -> str:
    return "  ".join(f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in found.items())


def plain(found: Figures) -> str:
    """The same on one line."""
    return "; ".join(f"{name}={value}" for name, value in lines(found))
