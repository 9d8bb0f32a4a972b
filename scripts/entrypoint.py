"""The image's entry point: `serve` (also without an argument), `train`, `health`.

SageMaker starts the image with the word `serve` or `train`. Both run in this same process, so that the container's
first process is the one that gets SIGTERM. The service reads its own settings, and the training job reads /opt/ml. This
module does what neither of them can do: it handles a signal before they are imported, and refuses wrong uses of the
image.

Exit codes: those of the service and of training; 2 for an unknown word; 1 if /opt/ml/model holds no artifact.
"""

from __future__ import annotations

import http.client
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

APP = Path(__file__).resolve().parent
OPT_ML = Path("/opt/ml")
WRONG = 2
NO_ARTIFACT = 1
STOPPED_UNTRAINED = 128 + signal.SIGTERM
HEALTH_TIMEOUT_S = 4.0  # below the 5 s of the image's HEALTHCHECK


def main(arguments: Sequence[str]) -> int:
    """Run a verb. The modules of `serve` and `train` end the process by SystemExit."""
    verb, *rest = arguments or ["serve"]
    if verb == "health":
        return health(os.environ)
    if verb not in ("serve", "train"):
        sys.stderr.write(f"usage: serve | train | health; got {' '.join(arguments)!r}\n")
        return WRONG
    exit_on_sigterm(0 if verb == "serve" else STOPPED_UNTRAINED)
    os.chdir(APP)  # models/default is found from here, even if the container was started in another directory
    problem = wrong_model(OPT_ML / "model", os.environ) if verb == "serve" else no_training()
    if problem:
        sys.stderr.write(f"{problem}\n")
        if verb == "train":
            write_failure(OPT_ML / "output", problem)
        return NO_ARTIFACT if verb == "serve" else WRONG
    run_module("service" if verb == "serve" else "training.sagemaker.job.container", [verb, *rest])
    return 0


def exit_on_sigterm(code: int) -> None:
    """Exit on SIGTERM until the service or the training installs its own handler.

    The kernel does not deliver SIGTERM to a container's first process without a handler, and the container would be
    killed half a minute later.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os._exit(code)

    signal.signal(signal.SIGTERM, leave)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run a module as `python -m` does, in this process; training gets the arguments without the verb."""
    sys.argv = [name, *(arguments if name == "service" else arguments[1:])]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def wrong_model(directory: Path, environment: Mapping[str, str]) -> str:
    """Return why a mounted model cannot be served; "" if it can, or if none is mounted.

    Without this check, models/default would be served instead of a model.tar.gz whose files are one directory too deep.
    """
    if environment.get("SERVICE_MODEL_DIR") or (directory / "manifest.json").is_file() or not directory.is_dir():
        return ""
    found = sorted(path.name for path in directory.iterdir() if not path.name.startswith((".", "lost+found")))
    if not found:
        return ""
    return (
        f"{directory} holds {', '.join(found[:5])} but no manifest.json: no artifact, or not at its archive's "
        "root (tar czf model.tar.gz -C ARTIFACT .); set SERVICE_MODEL_DIR to serve another directory"
    )


def no_training() -> str:
    """Return why this image cannot train; "" if it can."""
    try:
        found = find_spec("training.sagemaker.job.container")
    except ModuleNotFoundError:
        found = None
    return "" if found else "this image serves only; build one that trains: docker build --target train"


def write_failure(directory: Path, reason: str) -> None:
    """Write the file whose first 1024 characters SageMaker shows as the job's FailureReason."""
    if directory.is_dir():
        (directory / "failure").write_text(reason[:1024], encoding="utf-8")


def health(environment: Mapping[str, str]) -> int:
    """Return 0 if /readyz of the service in this container answers 200. It takes 0.1 s, as it imports no service."""
    port = environment.get("SAGEMAKER_BIND_TO_PORT") or environment.get("SERVICE_PORT") or "8080"
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        sys.stderr.write(f"no answer on port {port}: {exc}\n")
        return 1
    finally:
        connection.close()
    sys.stderr.write("" if status == http.client.OK else f"/readyz answered {status}\n")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
