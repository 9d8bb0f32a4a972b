"""The real service, the real page, a real browser."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.processes import free_port
from tests.support import ROOT
from tests.support.service_process import ServiceProcess

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
]
START_S = 60

expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module: while Playwright is open, no other event loop may run in this thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_process(service_url: str, directory: Path, **settings: str) -> Iterator[str]:
    """Run the page as `make app` does, on a free port; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "client/page/app.py", "--server.address", "127.0.0.1"]
    environment = {**os.environ, "CLASSIFIER_URL": service_url, "HOME": str(directory), "no_proxy": "*", **settings}
    with (directory / "page.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        health, by = f"http://127.0.0.1:{port}/_stcore/health", time.monotonic() + START_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            try:
                opener.open(health, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < by, (directory / "page.log").read_text()
        yield f"http://127.0.0.1:{port}"
        assert "Traceback" not in (directory / "page.log").read_text()
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(default_service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with page_process(default_service.url, tmp_path_factory.mktemp("page")) as url:
        yield url


@contextmanager
def visit(browser: Browser, url: str, width: int = 1200, height: int = 900, scheme: str = "light") -> Iterator[Page]:
    """Open the page as a new visitor."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        accept_downloads=True,
    )
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("button", name="Classify", exact=True)).to_be_visible()
    try:
        yield page
    finally:
        context.close()
