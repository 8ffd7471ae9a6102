"""Which modules are parts: names, globs, classes, parts inside parts."""

from typing import Any

import pytest
from support.models_with_parts import Asking, Block
from torch import nn

from convert import InputError
from convert.parts.chosen import choose


def _names(wanted: list[Any], model: nn.Module | None = None) -> list[str]:
    return [part.name for part in choose(model or Asking(), wanted)[0]]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["stem"], ["stem"]),
        (["blocks.*"], ["blocks.0", "blocks.1"]),
        ([Block], ["blocks.0", "blocks.1"]),
        (["head", "stem"], ["stem", "head"]),
        (["*"], ["stem", "blocks.0", "blocks.1", "head"]),
        (["blocks.*.act"], ["blocks.0.act", "blocks.1.act"]),
        ([nn.ReLU], ["stem.1", "blocks.0.act", "blocks.1.act"]),
    ],
)
def test_names_globs_and_classes(wanted: list[Any], names: list[str]) -> None:
    assert _names(wanted) == names


def test_a_part_inside_a_part_goes_with_it_and_is_told() -> None:
    parts, notes = choose(Asking(), ["blocks.0.act", "blocks.*", "stem"])
    assert [part.name for part in parts] == ["stem", "blocks.0", "blocks.1"]
    assert [part.exact for part in parts] == [True, False, False]
    assert notes == ["blocks.0.act: inside the part blocks.0, and converted with it"]


def test_a_shared_module_is_one_part_under_all_its_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.add_module("again", model[1])
    (part,) = choose(model, ["1"])[0]
    assert part.paths == ("1", "again")


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ("stam", "has no module 'stam'; there are e.g. stem"),
        ("nothing.*", "has no module 'nothing.*'"),
        ("blocks", r"blocks is a ModuleList, which isn't called; give 'blocks.\*'"),
        (nn.LSTM, "class LSTM, of which Asking has no module; its modules are of Sequential"),
    ],
)
def test_what_matches_nothing_is_refused(wanted: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        choose(Asking(), [wanted])
