"""Composition root: settings and engine to app to uvicorn. `python -m service [serve]`.

Exit codes: 0 stopped on request with all accepted work answered, 1 the model cannot be served or the port is taken,
2 a setting is wrong.
"""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn

from service.app import create_app
from service.errors import EngineLoadError
from service.http.protocol import BoundedProtocol
from service.inference.engine import Engine, Progress
from service.model.lifecycle import ModelLifecycle
from service.settings import Settings, SettingsError, load_settings
from service.telemetry import configure_logging, log, logger

LOAD_FAILED = 1
SETTINGS_WRONG = 2
MODEL_HINT = "SERVICE_MODEL_DIR (make serve MODEL=DIR) names the artifact to serve"
KEEP_ALIVE_S = 75  # longer than the 60 s of common load balancers, so that they hang up first
QUIET_S = 0.25  # without a new request before the port closes, so that none is cut off on its way
LINGER_S = 2.0  # but no longer than this, if callers never pause
CLOSE_S = 3  # for connections after all work is answered; drain_s + CLOSE_S stays below SageMaker's 30 s


class Server(uvicorn.Server):
    """uvicorn's server with an ordered stop.

    On SIGTERM or SIGINT: not ready and new work refused with 503 while the port still answers; then, once nothing is
    in flight or the time is up, the port closes, whoever still waits is told, and the process ends. A second signal
    skips the waiting.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: ModelLifecycle, drain_s: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_s = drain_s
        self._stop_requested = False
        self._stop_by = math.inf
        self._linger_until = math.inf
        self._reload_requested = False

    def hang_up(self, sig: int, frame: FrameType | None) -> None:
        """SIGHUP's handler: read the artifact anew; only sets a flag."""
        self._reload_requested = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler; only sets flags. Unlike uvicorn's it does not raise the signal again: exit code 0."""
        if self._stop_requested:
            self.should_exit = True
        self._stop_requested = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._reload_requested:
            self._reload_requested = False
            self._lifecycle.reload_soon()
        if self._stop_requested and self._lifecycle.status not in ("draining", "failed"):
            self._lifecycle.drain()
            log("draining", in_flight=self._lifecycle.in_flight)
        if self._stop_requested and not self.should_exit:
            self.should_exit = self._drained(time.monotonic())
        if self.should_exit:
            self._lifecycle.give_up()
        return await super().on_tick(counter)

    def _drained(self, now: float) -> bool:
        """Nothing is in flight, and callers whose next request was on its way have had their 503."""
        self._stop_by = min(self._stop_by, now + self._drain_s)
        if self._lifecycle.in_flight:
            return now >= self._stop_by
        self._linger_until = min(self._linger_until, now + LINGER_S, self._stop_by)
        return now - self._lifecycle.last_arrival >= QUIET_S or now >= self._linger_until


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; return the exit code."""
    if list(arguments) not in ([], ["serve"]):
        sys.stderr.write(f"usage: python -m service [serve]; got {' '.join(arguments)}\n")
        return SETTINGS_WRONG
    configure_logging("info")
    try:
        settings = load_settings()
    except SettingsError as exc:
        logger.error("settings: %s", exc)
        return SETTINGS_WRONG
    configure_logging(settings.log_level)
    return serve(settings)


def serve(settings: Settings) -> int:
    """Run the service with these settings; return the exit code."""
    failures: list[BaseException] = []

    def load_failed(exc: BaseException) -> None:
        failures.append(exc)
        if isinstance(exc, EngineLoadError):
            logger.critical("cannot serve: %s", exc)
        else:
            logger.critical("cannot serve: unexpected error while loading", exc_info=exc)
        server.should_exit = True

    app = create_app(settings=settings, load_engine=_load_engine, on_load_failure=load_failed)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )
    server = Server(config, app.state.lifecycle, settings.drain_s)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, server.hang_up)
    try:
        server.run()
    except SystemExit:  # uvicorn cannot have the port, and has logged why
        hint = "SERVICE_PORT (make serve PORT=9000) names another port, SERVICE_HOST another address"
        logger.critical("cannot serve: cannot listen on %s, port %d; %s", settings.host, settings.port, hint)
    code = LOAD_FAILED if failures or not server.started else 0
    if not code:
        log("stopped")
    if app.state.lifecycle.busy:  # the interpreter's end would wait for the model, or trip over imports
        logging.shutdown()
        os._exit(code)
    return code


def _load_engine(settings: Settings, report: Progress) -> Engine:
    directory = settings.model_dir
    try:  # a mistyped path should not cost the imports below
        (directory / "manifest.json").stat()
        problem = ""
    except FileNotFoundError:
        problem = "manifest.json is missing" if directory.is_dir() else "no such directory"
    except (OSError, ValueError) as exc:  # no permission, a name too long ...
        problem = getattr(exc, "strerror", None) or str(exc)
    if problem:
        raise EngineLoadError(f"artifact {directory}: {problem}; {MODEL_HINT}")
    report("importing PyTorch")
    from service.model.torch_engine import (
        load_torch_engine,  # seconds of imports: after the port is bound, off the loop
    )

    return load_torch_engine(settings, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
