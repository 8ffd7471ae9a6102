from xml.etree import ElementTree

from convert.pages.charts import STYLES, Chart, Line, key, mark

_LINES = (
    Line("agreement", ((1.0, 0.5), (2.0, None), (3.0, 0.975)), "a"),
    Line("accuracy of the original", ((1.0, 0.9), (3.0, 0.9)), "level"),
)
_CHART = Chart("By step", "What it means.", "t", "share", _LINES, shares=True)


def test_the_table_says_what_the_picture_shows() -> None:
    assert _CHART.columns == ["t", "agreement", "accuracy of the original"]
    assert _CHART.rows == [["1", "50.0 %", "90.0 %"], ["2", "–", "–"], ["3", "97.5 %", "90.0 %"]]


def test_a_picture_has_a_title_with_the_figures() -> None:
    tree = ElementTree.fromstring(_CHART.svg("here"))
    title = tree.find("title")
    assert title is not None and title.get("id") == tree.get("aria-labelledby") == "here"
    assert "agreement: 50.0 % at 1, 97.5 % at 3" in str(title.text)
    assert "accuracy of the original: 90.0 %" in str(title.text)
    assert sum("mark" in path.get("class", "") for path in tree.iter("path")) == 2


def test_names_are_escaped() -> None:
    chart = Chart("<b>", "", "<i>", "&", (Line("<script>", ((1.0, 1.0),), "b"),), shares=False)
    svg = chart.svg("here")
    assert "<script>" not in svg and "<i>" not in svg
    assert ElementTree.fromstring(svg) is not None


def test_lines_without_values_are_drawn() -> None:
    chart = Chart("", "", "", "", (Line("x", ((1.0, None), (2.0, None)), "a"),), False, log=True)
    assert "nan" not in chart.svg("here")


def test_each_style_has_a_mark_of_its_own() -> None:
    assert len({mark(style, 0, 0).partition("d=")[2] for style in STYLES}) == len(STYLES)
    assert "aria-hidden" in key("a") and "mark" not in key("level")
