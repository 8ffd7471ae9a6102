"""The pages in headless Chromium."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.browser import Page, find_browser

from convert import Conversion, write_comparison, write_report
from convert.pages.contents import contents_of
from convert.pages.writing import _write

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium isn't installed")

_NAMES = "Array.from(document.getElementById('site-table').tBodies[0].rows, r => r.cells[{}].{})"
_BUTTON = "document.querySelectorAll('#site-table th button')[{}]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def long(whole: Conversion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 264 sites, each with a curve."""
    page = contents_of(whole)
    sites = [
        replace(line, row=replace(line.row, name=f"blocks.{i}.{line.row.name}",
                                  relative_mse=(37 * i % 132) / 1000))
        for i in range(132)
        for line in page.sites
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("long") / "report.html"
    _write(path, "report.html", page=replace(page, sites=tuple(sites)))
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_and_nothing_complains(
    browser: Page, whole: Conversion, tmp_path: Path, width: int, dark: bool
) -> None:
    w = whole
    write_report(tmp_path / "report.html", w.snn, w.result, w.counts, w.energy)
    write_comparison(tmp_path / "compare.html", w, replace(w, name="again"))
    browser.view(width, dark=dark)
    for name in ("report.html", "compare.html"):
        browser.open(tmp_path / name)
        assert browser.complaints == []
        assert [r for r in browser.requests if not r.startswith("data:")] == [
            (tmp_path / name).resolve().as_uri()
        ]
        assert browser.value("document.documentElement.scrollWidth") == width
        paper = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark


def test_a_heading_sorts_by_numbers_and_back(browser: Page, long: Path) -> None:
    browser.view(1280)
    browser.open(long)
    errors = _NAMES.format(6, "dataset.v")
    before = [float(v) for v in browser.value(errors)]
    assert before != sorted(before)
    button = _BUTTON.format(6)
    browser.value(f"{button}.click()")
    assert [float(v) for v in browser.value(errors)] == sorted(before)
    assert browser.value(f"{button}.closest('th').getAttribute('aria-sort')") == "ascending"
    # The keyboard turns the order round.
    browser.value(f"{button}.focus()")
    for kind in ("rawKeyDown", "char", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", text="\r",
                     windowsVirtualKeyCode=13)  # fmt: skip
    assert [float(v) for v in browser.value(errors)] == sorted(before, reverse=True)
    assert browser.value("document.querySelectorAll('[aria-sort]').length") == 1
    # Names sort by the numbers in them: 2 comes before 10.
    browser.value(f"{_BUTTON.format(0)}.click()")
    names = browser.value(_NAMES.format(0, "textContent"))
    assert [name.split(".")[1] for name in names[:8:2]] == ["0", "1", "2", "3"]
    assert browser.complaints == []


def test_what_has_no_value_comes_last(browser: Page, whole: Conversion, tmp_path: Path) -> None:
    page = contents_of(whole)
    sites = (replace(page.sites[0], alone=None), *page.sites[1:])
    _write(tmp_path / "report.html", "report.html", page=replace(page, sites=sites))
    browser.open(tmp_path / "report.html")
    for _ in range(2):
        browser.value(f"{_BUTTON.format(7)}.click()")
        assert browser.value(_NAMES.format(7, "dataset.v"))[-1] == ""


def test_a_page_of_many_sites_is_small_and_quick(browser: Page, long: Path) -> None:
    assert long.stat().st_size < 5e6
    browser.view(1280)
    # By the browser's own clock; other work on the machine may slow one try down.
    assert min(browser.open(long) for _ in range(3)) < 2
    shown = "document.getElementById('curve-260').querySelector('svg').checkVisibility({contentVisibilityAuto: true})"  # noqa: E501
    assert browser.value(shown) is False
    browser.value("document.getElementById('curve-260').scrollIntoView()")
    browser.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    assert browser.value(shown) is True


def test_a_name_leads_to_a_curve_that_is_folded_away(browser: Page, long: Path) -> None:
    browser.view(1280)
    browser.open(long)
    folded = "document.getElementById('curve-9').closest('details').open"
    browser.value(f"{folded} = false")
    browser.value("document.querySelector('a[href=\"#curve-9\"]').click()")
    browser.value("new Promise(r => setTimeout(r, 50))")
    assert browser.value(folded) is True


def test_the_page_prints(browser: Page, whole: Conversion, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", whole.snn, whole.result, whole.counts, whole.energy)
    browser.view(1280, dark=True)
    browser.open(tmp_path / "report.html")
    browser.printed(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") in range(2, 12)
