"""The page in a real browser: narrow and wide, light and dark, sorted, followed and pointed at."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from reports import opt_deus, tries
from reports.render import render
from tests.test_report_synthetic import MODELS, change, params, write

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LACKING = "no Chromium here (apt-get install chromium): the report's page is not tried in a browser"
if CHROMIUM is None:
    warnings.warn(LACKING, stacklevel=1)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=LACKING)
# Neither in order as they stand nor when compared as text.
AFTER = dict(zip(MODELS, (23.5, 9.25, 1104.5, 24.75, 88.0, 101.25, 30.5), strict=True))
SCREENS = [(width, scheme) for width in (400, 1400) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the made-up run's metrics/ and its report in reports/."""
    root = tmp_path_factory.mktemp("browser")
    metrics = write(root / "metrics")
    for name, value in AFTER.items():
        change(metrics, f"pretrain/{name}", "steps", -1, "heldout_perplexity", value=value)
    render(params(), metrics, root / "reports")
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Root, as in a container, has no sandbox.
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def opened(browser: Browser, folder: Path, width: int, scheme: Any = "light") -> Page:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((folder / "reports" / "report.html").as_uri())
    return page


def run_of(folder: Path, model: str) -> dict[str, Any]:
    found = json.loads((folder / "metrics" / "pretrain" / f"{model}.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_it_fits_the_screen_asks_for_nothing_and_is_accessible(
    width: int, scheme: str, browser: Browser, folder: Path
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    address = (folder / "reports" / "report.html").as_uri()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Nothing that the page holds sticks out, but for what a box that scrolls holds.
    sticking = """() => [...document.querySelectorAll("body *")].filter(e =>
        !e.parentElement.closest(".wide") && e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(sticking) == []
    faults = Axe().run(page).response["violations"]
    grave = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
    assert grave == []
    assert asked == [address]
    assert said == []
    page.close()


def test_dark_is_dark(browser: Browser, folder: Path) -> None:
    def lightness(scheme: str) -> int:
        page = opened(browser, folder, 1400, scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.close()
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert lightness("dark") < 150 < 600 < lightness("light")


@pytest.mark.parametrize("width", [400, 1400])
def test_a_click_on_a_head_sorts_by_the_values(width: int, browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, width)
    table = page.locator("#table-main table")
    head = table.locator("th", has_text="perplexity after training")

    def order() -> list[str]:
        return table.locator("tbody tr td:first-child").all_inner_texts()

    assert order() == MODELS
    head.click()
    page.wait_for_timeout(100)
    assert order() == sorted(AFTER, key=lambda name: -AFTER[name])
    head.press("Enter")  # a keyboard does as well
    page.wait_for_timeout(100)
    assert order() == sorted(AFTER, key=lambda name: AFTER[name])
    assert head.get_attribute("aria-sort") == "ascending"
    page.close()


def test_what_was_not_measured_is_sorted_last(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    table = page.locator("#table-start_methods table")
    head = table.locator("th", has_text="σ₁²").first
    column = [th.inner_text() for th in table.locator("th").all()].index(head.inner_text())
    cells = table.locator(f"tbody tr td:nth-child({column + 1})")
    for _ in range(2):
        head.click()
        page.wait_for_timeout(100)
        texts = cells.all_inner_texts()
        measured = [text for text in texts if text != "not measured"]
        assert texts == measured + ["not measured"] * (len(texts) - len(measured))
        assert 0 < len(measured) < len(texts)
    page.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_a_link_of_the_contents_leads_to_its_heading(
    width: int, browser: Browser, folder: Path
) -> None:
    page = opened(browser, folder, width)
    link = page.locator("#contents").get_by_role("link", name="Main results", exact=True)
    if width == 400:  # folded up, so that the report comes first
        assert not link.is_visible()
        page.locator("#contents summary").click()
    link.click()
    assert page.url.endswith("#main-results")
    box = page.get_by_role("heading", name="Main results").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 400
    page.close()


def test_a_number_leads_to_its_file_quietly(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    row = page.locator("#table-main tbody tr").filter(has_text="llama_pro")
    link = row.locator("td:nth-child(4) a")  # the perplexity after training
    colour = "e => getComputedStyle(e).color"
    assert link.evaluate(colour) == row.locator("td").first.evaluate(colour)
    assert link.evaluate("e => e.tabIndex") == -1
    link.hover()
    assert link.evaluate(colour) == page.locator("#contents a").first.evaluate(colour)
    link.click()
    assert page.url.endswith("/metrics/pretrain/llama_pro.json")
    page.close()


def test_every_number_of_a_table_leads_to_a_file(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    found = page.evaluate("""() => [...document.querySelectorAll("main td.n")].filter(
        e => e.innerText != "not measured").map(e => [e.closest("figure").id,
            e.innerText, e.querySelector("a")?.getAttribute("href")])""")
    assert len(found) > 500
    shipped = {Path(source).name: Path(source) for source in (opt_deus.SOURCES, tries.SOURCES)}
    shipped["../params.yaml"] = Path("params.yaml")
    for table, text, href in found:
        assert href, (table, text)
        assert shipped.get(href, folder / "reports" / href).exists(), (table, text, href)
    page.close()


def test_every_entry_of_the_contents_has_its_target(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    targets = [str(a.get_attribute("href")) for a in page.locator("#contents a").all()]
    assert len(targets) == len(set(targets)) > 30
    tables = page.locator("main table").count()
    assert len([t for t in targets if t.startswith("#table-")]) == tables
    for target in targets:
        assert page.locator(f'[id="{target[1:]}"]').count() == 1, target
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_a_pointer_over_a_point_shows_its_values(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    figure = page.locator("#figure-loss_tokens")
    step = run_of(folder, "lesa")["steps"][1]
    points = figure.locator(".points > g").filter(has_text="lesa").filter(has_text="held-out")
    shown = f"training tokens: {step['tokens']:,.0f}" if step["tokens"] >= 1000 else ""
    point = points.filter(has_text=shown).filter(has_text=f"{step['heldout_loss']:.4g}").first
    text = point.locator("text")
    assert text.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    point.locator("circle").hover(force=True)
    assert text.evaluate("e => getComputedStyle(e).visibility") == "visible"
    page.close()


def test_points_lie_on_the_markers_that_were_drawn(browser: Browser, folder: Path) -> None:
    page = opened(browser, folder, 1400)
    positions = """selector => [...document.querySelectorAll(selector)].map(e =>
        [+(e.getAttribute("cx") ?? e.getAttribute("x")),
         +(e.getAttribute("cy") ?? e.getAttribute("y"))])"""
    for name in ("loss_tokens", "start"):
        circles = page.evaluate(positions, f"#figure-{name} .points circle")
        markers = page.evaluate(positions, f"#figure-{name} svg g[clip-path] use")
        assert len(circles) > 10
        for x, y in circles:
            assert min(abs(x - u) + abs(y - v) for u, v in markers) < 0.2, (name, x, y)
    page.close()
