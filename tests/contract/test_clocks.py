"""Durations and deadlines come from monotonic clocks: setting the wall clock moves none of them."""

import ast

import pytest

from tests.support import ROOT

WALL_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
}

SHOWN = {
    ("service/api/compatible.py", "time.time"),  # vLLM's field "created", Unix time
    ("service/telemetry.py", "time.gmtime"),  # the log's timestamps
    ("service/telemetry.py", "time.strftime"),
}
"""The places where the time of day is written down for a reader."""

MODULES = sorted((ROOT / "service").rglob("*.py"))


def wall_clocks(source: str) -> set[str]:
    """Return the uses of the time of day in a module, as "module.name"."""
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


def test_service_reads_the_time_of_day_only_to_show_it() -> None:
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
