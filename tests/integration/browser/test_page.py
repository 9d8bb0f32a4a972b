"""What people do on the page."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from client.page.examples import EXAMPLES
from tests.integration.browser.conftest import page_process, visit
from tests.support.texts import news_rows
from tests.unit.client.page.test_markup import luminance

pytestmark = pytest.mark.needs("chromium")


def classify(page: Page, text: str) -> None:
    page.get_by_label("The text").fill(text)
    page.get_by_role("button", name="Classify", exact=True).click()


def label(page: Page, text: str | re.Pattern[str]) -> None:
    """The answer's heading says this."""
    expect(page.get_by_role("heading", name=text)).to_be_visible()


def test_type_click_and_see_the_label(browser: Browser, address: str) -> None:
    with visit(browser, address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(_host(request)))
        classify(page, EXAMPLES["A cup tie"])
        label(page, "sport")
        expect(page.get_by_role("img", name=re.compile("Probabilities: sport 9"))).to_be_visible()
        expect(page.locator(".gc-text mark")).to_have_count(3)
        expect(page.get_by_text("left over")).to_be_visible()
        expect(page.get_by_text(re.compile(r"Tokens: \d+"))).to_be_visible()
        assert set(asked) <= {address.removeprefix("http://")}, "nothing comes from elsewhere"


def _host(request: Request) -> str:
    found = re.match(r"(?:https?|wss?)://([^/]+)", request.url)
    return found[1] if found else address_less(request.url)


def address_less(url: str) -> str:
    """data: and blob: have no host."""
    assert url.startswith(("data:", "blob:")), url
    return ""


def test_an_example_is_taken_and_classified(browser: Browser, address: str) -> None:
    with visit(browser, address) as page:
        expect(page.get_by_label("The text")).to_have_attribute("placeholder", re.compile("Members of parliament"))
        page.get_by_label("Start from").click()
        page.get_by_role("option", name="A new phone").click()
        expect(page.get_by_label("The text")).to_have_value(EXAMPLES["A new phone"])
        page.get_by_role("button", name="Classify", exact=True).click()
        label(page, "tech")


def test_the_keyboard_is_enough(browser: Browser, address: str) -> None:
    with visit(browser, address) as page:
        page.get_by_label("The text").focus()
        page.keyboard.type(
            "Shares in the bank fell after it warned that profits would miss forecasts this year, it said."
        )
        page.keyboard.press("Control+Enter")
        label(page, "business")
        page.get_by_label("The text").focus()
        for _ in range(2):  # over the box to the button
            page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Classify", exact=True)).to_be_focused()


def test_script_tags_stay_text(browser: Browser, address: str) -> None:
    text = (
        "<script>document.title='owned'</script> <img src=x onerror=\"document.title='owned'\"> The film won a prize."
    )
    with visit(browser, address) as page:
        classify(page, text)
        expect(page.locator(".gc-text")).to_contain_text("<script>document.title='owned'</script>")
        assert page.locator(".gc-text script, .gc-text img").count() == 0 and page.title() != "owned"


def test_a_very_long_text(browser: Browser, address: str) -> None:
    with visit(browser, address) as page:
        classify(page, "goal " * 60_000)
        expect(page.get_by_role("alert").filter(has_text="too much for the service")).to_be_visible()
        expect(page.get_by_role("alert").filter(has_text="200000")).to_be_visible()
        page.get_by_text("Show what each sentence contributed").click()
        classify(page, "The striker scored a goal in the cup final. " * 800)
        label(page, "sport")
        expect(page.get_by_text(re.compile(r"Windows: [3-9]\d"))).to_be_visible()


@pytest.fixture(scope="module")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 rows; each hundredth has no text."""
    path = tmp_path_factory.mktemp("files") / "articles.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number, row in enumerate(news_rows(500)):
            writer.writerow([number, "" if number % 100 == 99 else f"{row['text']} Number {number}."])
    return path


def test_a_file_of_500_rows(browser: Browser, address: str, articles: Path, tmp_path: Path) -> None:
    with visit(browser, address) as page:
        page.get_by_role("tab", name="A file").click()
        page.locator("input[type=file]").set_input_files(articles)
        page.get_by_role("button", name="Classify the file").click()
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_text(re.compile("500 rows in .* 5 failed"))).to_be_visible()
        page.get_by_text("failed", exact=True).click()
        expect(page.get_by_text("5 rows", exact=True)).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the labelled file").click()
        saved = tmp_path / download.value.suggested_filename
        download.value.save_as(saved)
    assert saved.name == "labelled-articles.csv"
    with saved.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(n) for n in range(500)]
    assert [row["id"] for row in rows if not row["prediction"]] == ["99", "199", "299", "399", "499"]
    assert all(row["error_kind"] == "empty_text" for row in rows if not row["prediction"])


def test_the_model_and_its_calibration(browser: Browser, address: str) -> None:
    with visit(browser, address) as page:
        page.get_by_role("tab", name="The model").click()
        expect(page.get_by_text("bbc-news-compact").last).to_be_visible()
        expect(page.get_by_text("97.8 %")).to_be_visible()
        expect(
            page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg").first
        ).to_be_visible()


def test_without_a_service_the_page_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    with page_process("http://127.0.0.1:9", tmp_path) as url, visit(browser, url) as page:
        classify(page, "some text")
        expect(page.get_by_role("alert").filter(has_text="make serve")).to_be_visible()
        assert page.get_by_text("Traceback").count() == 0


def test_a_phone_needs_no_scrolling_sideways(browser: Browser, address: str) -> None:
    with visit(browser, address, width=390, height=844) as page:
        classify(page, EXAMPLES["A vote in parliament"] + " " + "x" * 300)
        expect(page.locator(".gc-text")).to_be_visible()
        for tab in ("A text", "A file", "The model"):
            page.get_by_role("tab", name=tab).click()
            wide = "e => e.scrollWidth - e.clientWidth"
            assert page.locator("html").evaluate(wide) <= 0
            assert page.locator("[data-testid=stMain]").evaluate(wide) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sentences_can_be_read_in_light_and_dark(browser: Browser, address: str, scheme: str) -> None:
    """At least 4.5 : 1 (WCAG 2.2, level AA) between each sentence and what is behind it, as the browser has them."""
    with visit(browser, address, scheme=scheme) as page:
        classify(page, EXAMPLES["A vote in parliament"])
        expect(page.locator(".gc-text mark").first).to_be_visible()
        behind = _colour(page.locator(".stApp").evaluate("e => getComputedStyle(e).backgroundColor"))
        assert (luminance(behind[:3]) < 0.2) == (scheme == "dark")
        for mark in page.locator(".gc-text mark, .gc-key mark").all():
            colours = mark.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
            text, veil = map(_colour, colours)
            seen = tuple(veil[3] * v + (1 - veil[3]) * b for v, b in zip(veil[:3], behind[:3], strict=True))
            bright, dark = sorted((luminance(seen), luminance(text[:3])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5


def _colour(css: str) -> tuple[float, ...]:
    numbers = [float(number) for number in re.findall(r"[\d.]+", css)]
    return (*numbers, 1.0) if len(numbers) == 3 else tuple(numbers)
