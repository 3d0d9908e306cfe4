"""The page in headless Chromium: nothing loaded, no error, every figure drawn, themes, phone."""

import pytest

from faq_keras.report.pages import write
from faq_keras.report.run_report import run_report
from tests.report.browser import chromium, require_browser, show
from tests.report.conftest import images_of

_BOXES = """
return [...document.querySelectorAll("figure svg")].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("path, use")];
  const drawn = marks.filter(mark => { const b = mark.getBBox(); return b.width + b.height > 0; });
  return [svg.closest("figure").id, box.width, box.height, drawn.length];
});
"""
_COLORS = """
const style = getComputedStyle(document.body);
const text = document.querySelector("figure svg text");
return [style.backgroundColor, style.color, getComputedStyle(text).fill];
"""
_REACHABLE = """
const all = document.querySelectorAll("a, summary, [tabindex='0']");
return [...all].filter(e => e.checkVisibility()).length;
"""
_FOCUSED = """
const e = document.activeElement, style = getComputedStyle(e);
return [e.tagName, style.outlineStyle, parseFloat(style.outlineWidth)];
"""


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    stem = tmp_path_factory.mktemp("page") / "report"
    return write(run_report(finished, images_of, measure=False), stem)[0]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    require_browser()
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_loads_nothing_else_reports_no_error_and_draws_every_figure(driver, page, scheme, width):
    requests = show(driver, page, scheme, width)
    assert requests == [page.resolve().as_uri()]
    assert driver.get_log("browser") == []
    boxes = driver.execute_script(_BOXES)
    assert len(boxes) == 7
    for name, box_width, box_height, drawn in boxes:
        assert min(box_width, box_height, drawn) > 10, name
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_mode_changes_paper_ink_and_drawings(driver, page):
    show(driver, page, "light")
    light = driver.execute_script(_COLORS)
    show(driver, page, "dark")
    dark = driver.execute_script(_COLORS)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    for paper, *inks in (light, dark):
        for ink in inks:
            assert contrast(paper, ink) >= 7


def test_the_keyboard_reaches_everything_and_shows_where_it_is(driver, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(driver, page)
    seen = []
    for _ in range(driver.execute_script(_REACHABLE)):
        ActionChains(driver).send_keys(Keys.TAB).perform()
        tag, style, width = driver.execute_script(_FOCUSED)
        assert (style, width >= 2) == ("solid", True), tag
        seen.append(tag)
    assert seen[0] == "A"  # skips to the content
    assert (seen.count("A"), seen.count("SUMMARY")) == (9, 7)
    assert seen.count("DIV") >= 7 + 5  # drawings and tables can be scrolled by the keyboard


def test_it_has_landmarks_headings_in_order_and_a_text_for_every_picture(driver, page):
    show(driver, page)
    count = "return document.querySelectorAll(arguments[0]).length"
    for landmark in ("header", "nav[aria-label]", "main", "footer", "h1"):
        assert driver.execute_script(count, landmark) == 1
    assert driver.execute_script(count, "section[aria-labelledby] > h2") == 8
    assert driver.execute_script(count, "figure svg[role=img] > title") == 7
    assert driver.execute_script(count, "figure details table") == 7
    assert driver.execute_script(count, "table:not(:has(caption))") == 0
    broken = driver.execute_script(
        "return [...document.querySelectorAll('[aria-labelledby]')].filter(e => "
        "e.getAttribute('aria-labelledby').split(' ').some(id => !document.getElementById(id)))"
    )
    assert broken == []
    ids = driver.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def contrast(first, second):
    """WCAG's ratio of two `rgb(...)` colours."""

    def luminance(color):
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
