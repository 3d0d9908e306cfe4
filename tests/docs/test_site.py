"""The site: built without a warning, every link leads somewhere, and it works in a browser."""

import fcntl
import importlib
import io
import urllib.parse
import zlib

import pytest
from bs4 import BeautifulSoup

import faq_keras
from tests.conftest import ROOT
from tests.report.browser import chromium, require_browser, show
from tests.report.test_browser import contrast

# Whose `__all__` users import from.
PUBLIC = (
    "faq_keras",
    "faq_keras.converters",
    "faq_keras.custom_layers",
    "faq_keras.data.sources",
    "faq_keras.diagnostics",
    "faq_keras.quantization",
    "faq_keras.tflite",
    "faq_keras.tflite.benchmark",
    "faq_keras.tflite.devices",
    "faq_keras.tflite.parity",
    "faq_keras.training",
)
TALL = ["index", "tutorial", "compatibility", "command_line", "api/train", "troubleshooting"]


def built(folder):
    """Builds the site in a folder; returns the warnings."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    docs, warnings = ROOT / "docs", io.StringIO()
    with docutils_namespace():
        app = Sphinx(
            docs, docs, folder, folder.parent / "doctrees", "html", status=None, warning=warnings
        )
        app.build()
    return warnings.getvalue()


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """The folder of the site, built once, whichever worker comes first."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder, log = shared / "site", shared / "site_warnings.txt"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            warnings = built(folder)
            log.write_text(warnings)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page's tree, by its file."""
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    require_browser()
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_it_is_built_without_a_warning(site):
    assert (site.parent / "site_warnings.txt").read_text() == ""


def test_every_link_and_anchor_leads_somewhere(pages):
    anchors = {
        path: {tag[name] for name in ("id", "name") for tag in tree.find_all(attrs={name: True})}
        for path, tree in pages.items()
    }
    broken, count = [], 0
    for path, tree in pages.items():
        for link in tree.find_all("a", href=True):
            url = urllib.parse.urlsplit(link["href"])
            if url.scheme:
                continue
            count += 1
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            fragment = urllib.parse.unquote(url.fragment)
            if not target.is_file() or (fragment and fragment not in anchors.get(target, ())):
                broken.append(f"{path.name}: {link['href']}")
    assert broken == []
    assert count > 1000


def test_no_page_asks_for_anything_of_another_machine(pages):
    for path, tree in pages.items():
        sources = [tag["src"] for tag in tree.find_all(src=True)]
        sources += [tag["href"] for tag in tree.find_all("link", href=True)]
        assert sources, path
        assert [s for s in sources if urllib.parse.urlsplit(s).netloc] == [], path


@pytest.fixture(scope="module")
def documented(site):
    """Names of all Python objects in the inventory, which other projects link by."""
    content = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(content.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def test_every_public_name_is_documented(documented):
    assert {f"faq_keras.{name}" for name in faq_keras.__all__} <= documented


def found(name):
    """The object of a documented name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            value = getattr(value, part)
        return value
    raise AssertionError(name)


@pytest.mark.parametrize("room", PUBLIC)
def test_so_is_every_public_name_of_its_rooms_under_one_name_or_another(room, documented):
    known = {id(found(name)) for name in documented if name.count(".") <= 4}
    module = importlib.import_module(room)
    missing = [name for name in module.__all__ if id(getattr(module, name)) not in known]
    assert missing == []


def test_descriptions_are_not_taken_for_types(pages):
    wrong = [
        f"{path.name}: {field.find_parent('dl', class_='py').dt['id']}"
        for path, tree in pages.items()
        for field in tree.select("dl.field-list > dt")
        if field.get_text().startswith("Type")
    ]
    assert wrong == []


def test_signatures_can_be_read(pages):
    signatures = [
        signature.get_text() for tree in pages.values() for signature in tree.select("dl.py > dt")
    ]
    assert len(signatures) > 150
    for text in signatures:
        assert not any(odd in text for odd in ("<", "~", "ndarray[", "_SupportsArray")), text


def test_the_command_line_page_has_every_flag(pages, site):
    from faq_keras.cli.main import COMMANDS, own_flags

    text = " ".join(pages[site / "command_line.html"].article.get_text().split())
    for command in COMMANDS:
        assert f"faq {command}" in text
        for flag in own_flags(importlib.import_module(f"faq_keras.cli.{command}")):
            assert f"--{flag.name}" in text
            assert " ".join(flag.help.replace("`", "").split()) in text


@pytest.mark.parametrize("page", TALL)
def test_a_phone_shows_it_without_scrolling_sideways(driver, site, page):
    requests = show(driver, site / f"{page}.html", width=390)
    own = site.resolve().as_uri()
    assert [url for url in requests if not url.startswith((own, "data:"))] == []
    assert driver.get_log("browser") == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390


def test_a_wide_table_scrolls_within_itself(driver, site):
    show(driver, site / "compatibility.html", width=390)
    widths = driver.execute_script(
        "const box = document.querySelector('.table-wrapper'); box.scrollLeft = 100;"
        "return [box.clientWidth, box.scrollWidth, box.scrollLeft];"
    )
    assert widths[0] <= 390 < widths[1]
    assert widths[2] == 100


def test_both_themes_can_be_read(driver, site):
    papers = []
    for scheme in ("light", "dark"):
        show(driver, site / "tutorial.html", scheme)
        paper, *inks = driver.execute_script(
            "const color = (what, of) => getComputedStyle(document.querySelector(what))[of];"
            "return [color('body', 'backgroundColor'), color('article p', 'color'),"
            "color('article h1', 'color')];"
        )
        assert all(contrast(paper, ink) >= 7 for ink in inks)
        code, *inks = driver.execute_script(
            "const block = document.querySelector('.highlight-python .highlight');"
            "const parts = [...block.querySelectorAll('pre, pre span:not(:empty)')];"
            "return [getComputedStyle(block).backgroundColor,"
            "...new Set(parts.map(part => getComputedStyle(part).color))];"
        )
        assert len(inks) > 2  # it is coloured
        assert all(contrast(code, ink) >= 4.5 for ink in inks)
        papers.append(paper)
    assert papers[0] != papers[1]


def test_code_has_buttons_that_copy_it(driver, site, pages):
    show(driver, site / "tutorial.html")
    blocks = pages[site / "tutorial.html"].select("div.highlight pre")
    buttons = driver.execute_script("return document.querySelectorAll('.copybtn').length")
    assert buttons == len(blocks) > 10


def test_a_click_leads_on_and_the_search_finds(driver, site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    show(driver, site / "index.html")
    driver.find_element(By.LINK_TEXT, "tutorial").click()
    assert driver.find_element(By.TAG_NAME, "h1").text.startswith("Tutorial")
    driver.find_element(By.CSS_SELECTOR, "input.sidebar-search").send_keys("apply", Keys.ENTER)
    found = "return [...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    links = WebDriverWait(driver, 30).until(lambda browser: browser.execute_script(found))
    assert any(link.split("?")[0].endswith("api/quantize.html#faq_keras.apply") for link in links)
    assert driver.get_log("browser") == []
