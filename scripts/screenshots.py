"""Take the README's pictures of the page: `python scripts/screenshots.py URL`, while service and page are running."""

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
VIEWS = {"desktop": (1200, 1180, "light"), "dark": (1200, 1180, "dark"), "phone": (390, 1180, "light")}


def take(browser: Browser, url: str, name: str) -> None:
    """Take one picture of an example that is classified and explained."""
    width, height, scheme = VIEWS[name]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_label("Start from").click()
    page.get_by_role("option", name="A vote in parliament").click()
    expect(page.get_by_label("The text")).to_have_value(re.compile("Members"), timeout=30_000)
    page.get_by_role("button", name="Classify", exact=True).click()
    expect(page.get_by_text("As a table")).to_be_visible(timeout=60_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(1_000)  # animations
    page.screenshot(path=IMAGES / f"page-{name}.png")
    context.close()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name in VIEWS:
            take(browser, arguments[0], name)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
