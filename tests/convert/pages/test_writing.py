import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from torch import Tensor, nn

from convert import (
    Conversion,
    InputError,
    SpikingModel,
    load,
    to_spiking,
    write_comparison,
    write_report,
)

_EMPTY = {"meta", "link", "br", "wbr", "hr", "input", "img"}


class _Page(HTMLParser):
    """The elements of a page, and what isn't well formed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.elements, self.wrong = "", [], []
        self.words: list[str] = []
        self._open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()
        self.wrong += [f"{tag} isn't closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def told(self) -> str:
        return " ".join("".join(self.words).split())

    def check(self) -> None:
        """What holds of every page."""
        assert not self.wrong
        ids = [attrs["id"] for _, attrs in self.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        for _, attrs in self.elements:
            for name in ("aria-labelledby", "aria-describedby"):
                assert attrs.get(name, ids[0] if ids else None) in ids
            for name in ("src", "href", "action", "data", "poster", "xlink:href"):
                link = attrs.get(name) or "#"
                assert link == "data:," or (link[0] == "#" and (link == "#" or link[1:] in ids))
            assert not [name for name in attrs if name.startswith("on")]
        assert "url(" not in self.text and "@import" not in self.text
        for picture in self.named("svg"):
            assert picture.get("aria-hidden") == "true" or picture.get("role") == "img"
        # Every picture has a title in words.
        shown = [p for p in self.named("svg") if p.get("role") == "img"]
        assert len(shown) == len(self.named("title")) - 1


@pytest.fixture
def written(whole: Conversion, tmp_path: Path) -> _Page:
    w = whole
    write_report(
        tmp_path / "report.html", w.snn, w.result, w.counts, w.energy, correlation=w.correlation,
        name="small", details={"command": "python convert.py"},
    )  # fmt: skip
    return _Page(tmp_path / "report.html")


def test_the_page_needs_nothing_else(written: _Page) -> None:
    written.check()
    assert written.text.startswith("<!DOCTYPE html>") and '<html lang="en">' in written.text
    script = re.search(r"<script>(.*?)</script>", written.text, re.DOTALL)
    assert script is not None
    found = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{found}'" in written.text and "default-src 'none'" in written.text


def test_the_page_says_what_was_measured(written: _Page, whole: Conversion) -> None:
    result, counts = whole.result, whole.counts
    assert result is not None and counts is not None
    told = written.told
    assert told.index("small as a few-spikes network") < told.index("Accuracy on 48 test images")
    assert f"{100 * result.spiking['accuracy']:.1f} % spiking, 100.0 % original" in told
    assert f"{100 * result.spiking['agreement']:.1f} % of the 48 images get the same class" in told
    for word in ("Few-spikes neuron", "Time step", "Site", "Gates", "Agreement"):
        assert f"{word}" in told
    for name in ("Operations and energy", "spiking, arithmetic only", "spiking, with memory",
                 "quantised, every value, with memory", "Not counted",
                 "There is no single saving"):  # fmt: skip
        assert name in told
    assert f"{counts['accumulates']:,.0f}" in told
    assert "to_spiking(model, calibration, steps=[5, 3], method='binary', gates=2)" in told
    assert "python convert.py" in told and "torch" in told
    rows = [attrs for attrs in written.named("figure") if "id" in attrs]
    assert len(rows) == len(whole.report.sites)


def test_a_table_that_sorts_has_buttons_and_numbers(written: _Page) -> None:
    start = written.text.index('id="site-table"')
    table = written.text[start : written.text.index("</table>", start)]
    heads = re.findall(
        r'<th scope="col"[^>]*><button type="button"[^>]*>([^<]+)</button></th>', table
    )
    assert heads == [
        "Site", "Function", "K", "Gates", "Low", "High", "Fit error", "Error alone",
        "Error so far", "Neurons", "Events", "Won",
    ]  # fmt: skip
    first = table[table.index("<tbody>") :].partition("</tr>")[0]
    assert first.count("<td") == len(heads)
    float(re.findall(r'data-v="([^"]*)"', first)[3])


def test_what_is_missing_is_said(gated: SpikingModel, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", gated)
    page = _Page(tmp_path / "report.html")
    page.check()
    assert "The network was not tested." in page.told and "Not tested" in page.told
    assert "Operations were not counted. count_operations(snn, data) counts them." in page.told
    assert "Energy is not known" in page.told
    assert "Error alone" not in page.told and "A converted network" in page.told


def test_images_fill_in_what_is_missing(
    gated: SpikingModel, images: Tensor, tmp_path: Path
) -> None:
    write_report(tmp_path / "report.html", gated, images=images[:3])
    page = _Page(tmp_path / "report.html")
    page.check()
    assert "For one image, mean of 3." in page.told and "spiking, with memory" in page.told


def test_a_network_from_a_file_has_the_same_page(
    whole: Conversion, written: _Page, tmp_path: Path
) -> None:
    whole.snn.save(tmp_path / "net.fsnn", metadata={"model": "small"})
    again = load(tmp_path / "net.fsnn")
    write_report(
        tmp_path / "again.html", again, whole.result, whole.counts, whole.energy,
        correlation=whole.correlation, details={"command": "python convert.py"},
    )  # fmt: skip
    found, expected = (
        re.sub(r"<td>[\d.]+ s</td>", "", text)
        for text in (_Page(tmp_path / "again.html").text, written.text)
    )
    assert found == expected


_NAME = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&amp;{{ 7 * 7 }}"


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    snn = to_spiking(
        nn.Sequential(nn.ReLU()).eval(), Tensor([[1.0, -1.0]] * 4), steps=2, method="binary",
        progress=False,
    )  # fmt: skip
    (own,) = snn.names
    assert snn.report is not None
    snn.report.sites[0] = replace(snn.report.sites[0], name=_NAME, function=_NAME)
    snn.report.notes.append(_NAME)
    snn.names[_NAME] = snn.names.pop(own)
    snn.histograms[_NAME] = snn.histograms.pop(own)
    write_report(tmp_path / "report.html", snn, name=_NAME, details={_NAME: _NAME})
    write_comparison(tmp_path / "compare.html", Conversion(snn, name=_NAME), Conversion(snn))
    for name in ("report.html", "compare.html"):
        page = _Page(tmp_path / name)
        page.check()
        assert len(page.named("script")) == 1 and not page.named("img")
        assert page.told.count(_NAME) >= 4


def test_half_a_character_in_a_name_is_written(gated: SpikingModel, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", gated, name="a\ud800b")
    assert "a?b as a few-spikes" in _Page(tmp_path / "report.html").told


def test_a_page_is_written_whole_or_not_at_all(
    gated: SpikingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def full(self: Path, *args: object, **given: object) -> int:
        Path.write_bytes(self, b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left"):
        write_report(path, gated)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", ["", "a\0b", 3])
def test_a_path_that_no_file_has(gated: SpikingModel, path: object) -> None:
    with pytest.raises(InputError):
        write_report(path, gated)  # type: ignore[arg-type]


@pytest.fixture
def pages(whole: Conversion, small: nn.Module, images: Tensor, tmp_path: Path) -> Iterator[_Page]:
    other = to_spiking(small, images, steps=3, method="binary", progress=False)
    write_comparison(tmp_path / "compare.html", whole, other)
    yield _Page(tmp_path / "compare.html")


def test_two_networks_side_by_side(pages: _Page) -> None:
    pages.check()
    assert "small and A converted network" in pages.told
    assert "A converted network was not tested." in pages.told
    assert "small: " in pages.told


def test_what_is_no_network_is_not_compared(gated: SpikingModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a Linear"):
        write_comparison(tmp_path / "c.html", gated, nn.Linear(1, 1))  # type: ignore[arg-type]
