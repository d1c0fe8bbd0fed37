"""The report in a real browser: no network, no script, no sideways scrolling, readable in light and dark."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.evaluation.plausible import leaked, plausible
from volssl.evaluation.findings import Findings, Pictured
from volssl.evaluation.report import write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
LONG = "resnet50-pretrained-on-everything-with-a-name-that-has-no-spaces-and-does-not-end"
WIDTHS = (360, 768, 1280)
# Luminance and contrast as WCAG 2.2 defines them; the ground of an element is the first that is not see-through.
CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const over = (top, below) => {
    const a = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(i => a * top[i] + (1 - a) * below[i]);
  };
  const ground = element => {
    const own = parse(getComputedStyle(element).backgroundColor);
    if (own.length < 4 || own[3] === 1) return own;
    return element.parentElement ? over(own, ground(element.parentElement)) : [255, 255, 255];
  };
  const worst = {};
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!text || !element.checkVisibility() || element.closest('.hidden')) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest('svg') ? style.fill : style.color);
    const paper = ground(element.closest('svg')?.parentElement ?? element);
    const [a, b] = [luminance(over(ink, paper)), luminance(paper)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const name = element.tagName.toLowerCase() + '.' + (element.getAttribute('class') ?? '');
    worst[name] = Math.min(worst[name] ?? 21, contrast);
  }
  return worst;
}"""


def need_a_browser() -> None:
    """Skip where there is none; fail where ``VOLSSL_BROWSER=required``, as in CI."""
    if importlib.util.find_spec("playwright") is None:
        lacking = "playwright is not installed (pip install playwright)"
    elif not CHROMIUM.exists():
        lacking = f"{CHROMIUM} is not here (apt-get install chromium)"
    else:
        return
    told = f"{lacking}: the report is looked at in no browser"
    if os.environ.get("VOLSSL_BROWSER") == "required":
        pytest.fail(told)
    pytest.skip(told)


def test_where_a_browser_is_required_its_absence_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CHROMIUM", Path("/nowhere/chromium"))
    monkeypatch.setenv("VOLSSL_BROWSER", "required")
    with pytest.raises(pytest.fail.Exception, match=r"(chromium|playwright) is not"):
        need_a_browser()
    monkeypatch.delenv("VOLSSL_BROWSER")
    with pytest.raises(pytest.skip.Exception):
        need_a_browser()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    need_a_browser()
    api = importlib.import_module("playwright.sync_api")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", *QUIET], timeout=120_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a report can show, under a name that cannot be broken at a space."""
    folder = tmp_path_factory.mktemp("page")
    found = plausible(("simclr", LONG, "random", "pixels"), ("tiles", "findings", "hippocampus", "masks"), 14)
    write(_long_classes(leaked(found)), folder)
    return folder / "report.html"


def _long_classes(found: Findings) -> Findings:
    def renamed(one: Pictured) -> Pictured:
        return replace(one, target=replace(one.target, names=(LONG, *one.target.names[1:])))

    return replace(found, pictured=tuple(map(renamed, found.pictured)))


def opened(browser: Browser, path: Path, faults: list[str], *, scheme: str = "light", script: bool = True) -> Page:
    """The page without a network; requests to elsewhere and errors are written to ``faults``."""
    context = browser.new_context(color_scheme=scheme, java_script_enabled=script)  # type: ignore[arg-type]
    context.set_default_timeout(120_000)
    context.set_offline(True)
    page = context.new_page()
    page.on("request", lambda request: faults.extend(_elsewhere(request.url)))
    page.on("console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.goto(path.as_uri())
    return page


def _elsewhere(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:")) else [f"request: {url}"]


def faults_of(browser: Browser, path: Path, *, script: bool = True) -> list[str]:
    """What is wrong with a page: requests, errors, pictures that do not show, sideways scrolling."""
    faults: list[str] = []
    page = opened(browser, path, faults, script=script)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        wide = page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            faults.append(f"{wide} px wide on a screen of {width}")
    blank = page.evaluate("[...document.images].filter(one => !(one.complete && one.naturalWidth > 0)).length")
    faults += [f"{blank} pictures do not show"] if blank else []
    page.context.close()
    return faults


@pytest.mark.parametrize("script", [True, False])
def test_the_page_needs_no_network_no_script_and_no_sideways_scrolling(
    browser: Browser, report: Path, script: bool
) -> None:
    assert faults_of(browser, report, script=script) == []


def test_it_shows_its_headings_and_pictures(browser: Browser, report: Path) -> None:
    page = opened(browser, report, [])
    assert page.title() == "What the encoders are worth"
    assert page.get_by_role("heading", level=1).inner_text() == "What the encoders are worth"
    chapters = page.get_by_role("heading", level=2).all_inner_texts()
    assert chapters[:5] == ["Summary", "tiles", "findings", "hippocampus", "masks"]
    assert page.get_by_role("note", name="Leakage").is_visible()
    assert page.locator("img").count() > 20
    assert page.get_by_role("img").count() > 30  # figures among them
    page.context.close()


def test_nothing_has_a_box_to_scroll_on_a_phone(browser: Browser, report: Path) -> None:
    page = opened(browser, report, [])
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = "[...document.querySelectorAll('.box')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert page.evaluate(boxes) == 0
    page.context.close()


def test_what_is_cut_off_on_a_phone_is_nothing(browser: Browser, report: Path) -> None:
    """No text or picture reaches beyond the edge, where it could not even be scrolled to."""
    page = opened(browser, report, [])
    page.set_viewport_size({"width": 360, "height": 740})
    beyond = page.evaluate(
        """[...document.body.querySelectorAll('*')]
        .filter(one => !one.closest('.hidden, .skip, thead') && one.checkVisibility())
        .filter(one => one.getBoundingClientRect().right > 361).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, report: Path, scheme: str) -> None:
    page = opened(browser, report, [], scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert {name: round(value, 2) for name, value in contrasts.items() if value < 4.5} == {}
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    assert dark == (scheme == "dark")
    page.context.close()


def test_it_prints_on_white(browser: Browser, report: Path) -> None:
    page = opened(browser, report, [], scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.context.close()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<div style="width: 2000px">wide</div>', "2000 px wide on a screen of 360"),
        ('<img src="data:image/png;base64,AAAA" alt="">', "1 pictures do not show"),
        ('<img src="https://example.org/a.png" alt="">', "request: https://example.org/a.png"),
        ("<script>throw new Error('no')</script>", "error: no"),
    ],
)
def test_a_page_at_fault_is_found_out(browser: Browser, tmp_path: Path, body: str, fault: str) -> None:
    path = tmp_path / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    path.write_text(
        f"<!doctype html><html lang=en><head>{head}<title>t</title><style>body {{ margin: 0 }}</style>{body}"
    )
    assert fault in faults_of(browser, path)


def test_grey_on_white_is_found_out(browser: Browser, tmp_path: Path) -> None:
    """#777 on white is 4.48 to 1, #767676 is 4.54."""
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><title>t</title><p style='color: #777'>a</p><b style='color: #767676'>b</b>")
    page = opened(browser, path, [])
    contrasts = page.evaluate(CONTRASTS)
    assert contrasts["p."] == pytest.approx(4.48, abs=0.005)
    assert contrasts["b."] == pytest.approx(4.54, abs=0.005)
    page.context.close()
