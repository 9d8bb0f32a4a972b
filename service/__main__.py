"""Composition root: settings, engine, app and server. `python -m service [serve]`.

Exit codes: 0 stopped on request with all accepted work answered, 1 the model cannot be served (any more) or the port is
taken, 2 a setting is wrong.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from service.app import create_app
from service.errors import EngineLoadError
from service.http.server import Server
from service.inference.engine import Engine, Progress
from service.settings import Settings, SettingsError, load_settings
from service.telemetry import configure_logging, log, logger

MODEL_FAILED = 1
SETTINGS_WRONG = 2
MODEL_HINT = "SERVICE_MODEL_DIR (make serve MODEL=DIR) names the artifact to serve"


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
    server = Server(app, app.state.lifecycle, settings)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, server.request_reload)
    try:
        server.run()
    except SystemExit:  # uvicorn could not bind the port and has logged why
        hint = "SERVICE_PORT (make serve PORT=9000) names another port, SERVICE_HOST another address"
        logger.critical("cannot serve: cannot listen on %s, port %d; %s", settings.host, settings.port, hint)
    code = MODEL_FAILED if failures or not server.started or server.model_failed else 0
    if not code:
        log("stopped")
    if app.state.lifecycle.busy:  # an ordinary exit would wait for the model's thread
        logging.shutdown()
        os._exit(code)
    return code


def _load_engine(settings: Settings, report: Progress) -> Engine:
    """Load the artifact of the settings.

    Raises:
        EngineLoadError: there is no artifact in that directory, or it cannot be served.
    """
    directory = settings.model_dir
    try:  # before PyTorch is imported, so that a mistyped path is reported at once
        (directory / "manifest.json").stat()
        problem = ""
    except FileNotFoundError:
        problem = "manifest.json is missing" if directory.is_dir() else "no such directory"
    except (OSError, ValueError) as exc:  # no permission, a name too long ...
        problem = getattr(exc, "strerror", None) or str(exc)
    if problem:
        raise EngineLoadError(f"artifact {directory}: {problem}; {MODEL_HINT}")
    report("importing PyTorch")
    from service.model.load_engine import load_torch_engine  # seconds of imports, so after the port is bound

    return load_torch_engine(settings, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
