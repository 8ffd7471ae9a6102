import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np

from convert import SpikingModel
from convert.pages.site_curves import SiteCurve, site_curves
from convert.pages.site_pictures import site_picture


def _paths(curve: SiteCurve) -> dict[str, str]:
    tree = ElementTree.fromstring(site_picture(curve, "here"))
    return {path.get("class", ""): path.get("d", "") for path in tree.iter("path")}


def test_a_picture_has_a_title_and_stays_in_its_frame(gated: SpikingModel) -> None:
    for curve in site_curves(gated):
        svg = site_picture(curve, "here")
        tree = ElementTree.fromstring(svg)
        assert tree.get("role") == "img" and tree.get("aria-labelledby") == "here"
        title = tree.find("title")
        assert title is not None and title.get("id") == "here"
        assert str(title.text).startswith(curve.row.name)
        for name in ("exact", "fitted", "seen"):
            heights = [float(y) for y in re.findall(r"[V ](\d+(?:\.\d)?)", _paths(curve)[name])]
            assert heights and min(heights) >= 8 and max(heights) <= 128
        assert len(svg) < 8000


def test_a_name_is_escaped(gated: SpikingModel) -> None:
    curve = site_curves(gated)[0]
    hostile = replace(curve, row=replace(curve.row, name="</title><script>alert(1)</script>"))
    svg = site_picture(hostile, "here")
    assert "<script" not in svg
    title = ElementTree.fromstring(svg).find("title")
    assert title is not None and "<script>" in str(title.text)


def test_what_is_not_finite_is_left_out(gated: SpikingModel) -> None:
    curve = site_curves(gated)[0]
    exact = curve.exact.copy()
    exact[:10] = np.nan
    exact[20] = np.inf
    svg = site_picture(replace(curve, exact=exact), "here")
    assert "nan" not in svg.lower() and "inf" not in svg.lower()
    assert _paths(replace(curve, exact=exact))["exact"].count("M") == 2
    nothing = np.full_like(exact, np.nan)
    assert _paths(replace(curve, exact=nothing, fitted=nothing))["exact"] == ""


def test_the_ends_of_the_axes_have_few_characters(gated: SpikingModel) -> None:
    curve = site_curves(gated)[0]
    for factor in (1e-7, 1.0, 123456.789, -3e20):
        tree = ElementTree.fromstring(
            site_picture(
                replace(curve, exact=factor * curve.exact, fitted=factor * curve.fitted), "here"
            )
        )
        assert all(len(str(text.text)) <= 9 for text in tree.iter("text"))
    wide = replace(curve, exact=np.linspace(3e-5, 9, len(curve.x)))
    assert "3e-05" not in site_picture(wide, "here")
