"""What a benchmark starts is gone when it ends."""

from pathlib import Path

import psutil
import pytest

from benchmarks.processes import ROOT, free_port, last_line, peak_rss_mib, running, wait_for_status
from benchmarks.runtimes.process import started
from benchmarks.tools.errors import Unavailable

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the benchmarks read /proc")


def test_process_and_its_children_are_ended_also_on_errors(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail() -> None:
        with running(["sh", "-c", "sleep 60 & echo here; wait"], log=tmp_path / "log", pipes=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
            pids.extend([process.pid, *(child.pid for child in psutil.Process(process.pid).children())])
            assert peak_rss_mib(process.pid) > 0
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert len(pids) == 2
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")  # a child that nobody has reaped yet is dead all the same
        assert not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


def test_server_that_ends_by_itself_is_not_waited_for(tmp_path: Path) -> None:
    with (
        running(["sh", "-c", "echo broken; exit 3"], log=tmp_path / "log") as process,
        pytest.raises(Unavailable, match="exit code 3"),
    ):
        wait_for_status(process, free_port(), "/readyz", limit_s=30, every_s=0.01)
    assert last_line(tmp_path / "log") == "broken"


def test_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No module named"), started("no_such_runtime", {}, log=tmp_path / "log"):
        pass


def test_root_is_the_repository() -> None:
    assert (ROOT / "pyproject.toml").is_file()
