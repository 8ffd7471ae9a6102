from dataclasses import replace

from torch import Tensor, nn

from convert import Conversion, evaluate, to_spiking
from convert.pages.comparison import compared
from convert.pages.contents import contents_of


def test_what_differs_is_listed(whole: Conversion, small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=[4, 3], method="binary", progress=False)
    found = evaluate(snn, small, images[:20], by_site=0, progress=False)
    page = compared(contents_of(whole), contents_of(Conversion(snn, found, name="plain")))
    settings = {row.name: (row.first, row.second) for row in page.settings}
    assert settings == {"steps": ("[5, 3]", "[4, 3]"), "gates": ("2", "0")}
    figures = {row.name: row for row in page.figures}
    assert (figures["test images"].first, figures["test images"].second) == ("48", "20")
    assert figures["accuracy"].second == "–" and figures["sites"].differs is False
    assert "48 and 20 images" in page.notes[0]
    assert [pair.name for pair in page.sites] == [row.name for row in whole.report.sites]
    by_k = next(chart for chart in page.charts if chart.over == "K")
    assert [line.name for line in by_k.lines] == ["small", "plain"]
    assert [x for x, _ in by_k.lines[1].points] == [3, 4]
    assert page.energy == ()


def test_networks_without_a_common_site(whole: Conversion, images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()).eval()
    snn = to_spiking(model, images, steps=2, method="binary", progress=False)
    page = compared(contents_of(whole), contents_of(Conversion(snn)))
    assert [pair.second is None for pair in page.sites] == [True, True, False]
    assert "different networks" in page.notes[-1]


def test_a_network_beside_itself_does_not_differ(whole: Conversion) -> None:
    first, second = contents_of(whole), contents_of(replace(whole, name="again"))
    page = compared(first, second)
    assert not page.settings and not page.notes
    assert not any(row.differs for row in (*page.figures, *page.energy)) and page.energy
