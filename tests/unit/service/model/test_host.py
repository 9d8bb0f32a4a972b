import os
from pathlib import Path

import pytest

from service.model.host import available_cpus


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("content", "cpus"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_quota_of_cgroup_v2(tmp_path: Path, content: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(content, encoding="ascii")
    assert available_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("quota", "cpus"), [("-1", 8), ("300000", 3)])
def test_quota_of_cgroup_v1(tmp_path: Path, quota: str, cpus: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota, encoding="ascii")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert available_cpus(tmp_path) == cpus


def test_no_or_odd_cgroup_leaves_the_affinity(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "none") == 8
    (tmp_path / "cpu.max").write_text("odd", encoding="ascii")
    assert available_cpus(tmp_path) == 8
