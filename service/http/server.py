"""uvicorn's server with an ordered stop that an orchestrator can rely on."""

import math
import time
from types import FrameType

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

import uvicorn
from starlette.types import ASGIApp

from service.http.protocol import BoundedProtocol
from service.model.lifecycle import ModelLifecycle
from service.settings import Settings
from service.telemetry import log, logger

KEEP_ALIVE_S = 75  # longer than the 60 s of common load balancers, so that they close idle connections first
QUIET_S = 0.25  # without a new request before the port closes, so that no request on its way is cut off
LINGER_S = 2.0  # upper bound on that wait, if new requests never pause
RESTART_S = 10.0  # in a state that only a restart ends; a process that was paused seems to be in it for a moment
CLOSE_S = 3  # for connections after all work is answered; drain_s + CLOSE_S stays below SageMaker's 30 s


class Server(uvicorn.Server):
    """A server of the app that stops in order and reloads on SIGHUP.

    On SIGTERM or SIGINT the service is not ready and refuses new work with 503 while the port still answers. Once no
    request is in flight, or `drain_s` is over, the port closes, requests that still wait get an error, and the process
    ends with exit code 0. A second signal skips the waiting. If only a restart helps the model for `RESTART_S` seconds,
    the service stops by itself in the same order and sets `model_failed`.
    """

    def __init__(self, app: ASGIApp, lifecycle: ModelLifecycle, settings: Settings) -> None:
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
        super().__init__(config)
        _allow_connections()
        self.model_failed = False
        """True if the service stops because only a restart helps."""
        self._lifecycle = lifecycle
        self._drain_s = settings.drain_s
        self._stop_requested = False
        self._stop_by = math.inf
        self._linger_until = math.inf
        self._restart_at = math.inf
        self._reload_requested = False

    def request_reload(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGHUP: set the flag that makes the next tick reload the artifact."""
        self._reload_requested = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM and SIGINT by setting flags. Unlike uvicorn's handler, do not raise the signal again."""
        if self._stop_requested:
            self.should_exit = True
        self._stop_requested = True

    async def on_tick(self, counter: int) -> bool:
        """Act on the flags; uvicorn calls this ten times a second."""
        if self._reload_requested:
            self._reload_requested = False
            self._lifecycle.reload_soon()
        self._stop_if_only_a_restart_helps(time.monotonic())
        if self._stop_requested and self._lifecycle.status not in ("draining", "failed"):
            self._lifecycle.drain()
            log("draining", in_flight=self._lifecycle.in_flight)
        if self._stop_requested and not self.should_exit:
            self.should_exit = self._drained(time.monotonic())
        if self.should_exit:
            self._lifecycle.give_up()
        return await super().on_tick(counter)

    def _stop_if_only_a_restart_helps(self, now: float) -> None:
        self._restart_at = min(self._restart_at, now + RESTART_S) if self._lifecycle.needs_restart else math.inf
        if now >= self._restart_at and not self._stop_requested:
            logger.critical("the model is stuck or has failed for good; the process ends, so that it is started again")
            self.model_failed = self._stop_requested = True

    def _drained(self, now: float) -> bool:
        """Return whether the port may close: no request is in flight or about to arrive, or the time is over."""
        self._stop_by = min(self._stop_by, now + self._drain_s)
        if self._lifecycle.in_flight:
            return now >= self._stop_by
        self._linger_until = min(self._linger_until, now + LINGER_S, self._stop_by)
        return now - self._lifecycle.last_arrival >= QUIET_S or now >= self._linger_until


def _allow_connections() -> None:
    """Raise the soft limit of open files to the hard one: 1,024, a common soft limit, is too low for idle callers."""
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
