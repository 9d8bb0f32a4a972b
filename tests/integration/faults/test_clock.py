"""Durations and deadlines come from clocks that cannot be set: neither a leap nor an operator moves them."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

WALL_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
}

SHOWN = {
    ("service/api/compatible.py", "time.time"),  # vLLM's field "created", Unix time
    ("service/telemetry.py", "time.gmtime"),  # the log's timestamps
    ("service/telemetry.py", "time.strftime"),
}
"""Where the time of day is written down for somebody to read."""

MODULES = sorted((ROOT / "service").rglob("*.py"))


def wall_clocks(source: str) -> set[str]:
    """Calls or mentions of the time of day, as "module.name"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            owner = "datetime" if owner == "date" else owner
            if node.attr in WALL_CLOCKS.get(owner, ()):
                found.add(f"{owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{one.name}" for one in node.names if one.name in WALL_CLOCKS["time"]}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_service_reads_the_time_of_day_only_to_show_it(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = {(name, clock) for clock in wall_clocks(path.read_text(encoding="utf-8"))}
    assert found <= SHOWN


def test_every_exception_is_in_use() -> None:
    used = {
        (path.relative_to(ROOT).as_posix(), clock)
        for path in MODULES
        for clock in wall_clocks(path.read_text(encoding="utf-8"))
    }
    assert used == SHOWN


@pytest.mark.parametrize(
    "source", ["import time\ntime.time()", "from time import time", "datetime.datetime.now()", "date.today()"]
)
def test_time_of_day_is_noticed(source: str) -> None:
    assert wall_clocks(source)


def test_monotonic_clocks_pass() -> None:
    assert not wall_clocks("import time\ntime.monotonic(); time.perf_counter(); loop.time()")
