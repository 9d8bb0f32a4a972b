"""A training job as the platform runs it: a directory like /opt/ml, and the container's entry point as a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.support import ROOT
from tests.support.texts import news_rows

QUICK: dict[str, Any] = {
    "epochs": 4, "max-seq-len": 32, "batch-size": 8, "lr": 5e-3, "dropout": 0.1, "seed": 5, "baseline": False,
    "report": False,
}  # fmt: skip


class Job:
    """One host of a job; with no rows it has no train channel yet."""

    def __init__(
        self,
        root: Path,
        hyperparameters: Mapping[str, object],
        base_model: Path | None,
        *,
        hosts: tuple[str, ...] = ("algo-1",),
        current: str = "algo-1",
        rows: Sequence[Mapping[str, str]] | None = None,
        **environment: str,
    ) -> None:
        self.root = root
        self.environment = environment
        self.write(
            "config/hyperparameters.json",
            {k: v if isinstance(v, str) else json.dumps(v) for k, v in hyperparameters.items()},
        )
        resources = {"current_host": current, "hosts": list(hosts), "network_interface_name": "lo"}
        self.write("config/resourceconfig.json", resources)
        self.describe(train={"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"})
        rows = news_rows(60) if rows is None else rows
        if rows:
            self.channel("train", "part-0.jsonl", "\n".join(map(json.dumps, rows)))
        if base_model is not None:
            (root / "input/data/base_model").symlink_to(base_model)
        for name in ("model", "output/data", "checkpoints"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def write(self, path: str, content: object) -> None:
        file = self.root / "input" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")

    def describe(self, **channels: Mapping[str, str]) -> None:
        self.write("config/inputdataconfig.json", channels)

    def channel(self, name: str, file: str, content: str) -> None:
        place = self.root / "input" / "data" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_text(content, encoding="utf-8")

    def start(self, *command: str) -> "subprocess.Popen[str]":
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER_"))}
        return subprocess.Popen(
            [sys.executable, *(command or ("-m", "training.sagemaker.job.container", "train"))],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env=variables | {"SAGEMAKER_BASE_DIR": str(self.root), "OMP_NUM_THREADS": "1", **self.environment},
        )  # fmt: skip

    def run(self, *command: str) -> tuple[int, str]:
        with self.start(*command) as process:
            output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def succeed(self) -> str:
        """Run the job, which must succeed, and return its log."""
        code, log = self.run()
        assert code == 0, log
        return log

    @contextmanager
    def until(self, beginning: str) -> "Iterator[tuple[subprocess.Popen[str], IO[str]]]":
        """Start the job; give the process and the rest of its log once a line begins so."""
        with self.start() as process:
            assert process.stdout is not None
            next(line for line in process.stdout if line.startswith(beginning))
            yield process, process.stdout

    def interrupt(self, step: int, sig: int) -> tuple[int, str]:
        """Send the signal once the log has reached the step: SIGTERM to the container, SIGKILL to all its processes."""
        seen = []
        with self.start() as process:
            assert process.stdout is not None
            for line in process.stdout:
                seen.append(line)
                if line.startswith("step=") and int(line[5:].partition("/")[0]) >= step:
                    os.killpg(process.pid, sig) if sig == signal.SIGKILL else process.send_signal(sig)
                    break
            seen += process.stdout.readlines()
        return process.returncode, "".join(seen)

    @property
    def failure(self) -> str:
        return (self.root / "output" / "failure").read_text(encoding="utf-8")
