"""An order of passes in which a requirement isn't met is refused before anything runs."""

import itertools

import pytest

from convert.capture import capture
from convert.errors import ConversionError
from convert.graph.passes import Fact, Pass, check, run
from convert.sites import prepare

_ALL = (*capture.PASSES, *prepare.PASSES)


def test_the_lists_are_one_order() -> None:
    after = check(_ALL, capture.GIVEN)
    assert after == set(Fact) - {Fact.NEURONS}
    assert len({each.name for each in _ALL}) == len(_ALL) == 8


def test_no_two_neighbours_can_change_places() -> None:
    for i, (first, second) in enumerate(itertools.pairwise(_ALL)):
        swapped = [*_ALL[:i], second, first, *_ALL[i + 2 :]]
        with pytest.raises(ConversionError, match=f"{second.name!r} requires that"):
            check(swapped, capture.GIVEN)


@pytest.mark.parametrize("left_out", [each.name for each in _ALL[:-1]])
def test_no_pass_can_be_left_out(left_out: str) -> None:
    with pytest.raises(ConversionError, match="which no pass before it leaves true"):
        check([each for each in _ALL if each.name != left_out], capture.GIVEN)


def test_nothing_runs_in_a_wrong_order() -> None:
    ran: list[str] = []

    def noted(name: str, requires: set[Fact], leaves: set[Fact]) -> Pass[list[str]]:
        return Pass(name, frozenset(requires), frozenset(leaves), lambda state: state.append(name))

    first = noted("first", {Fact.PLAIN}, {Fact.CONSTANTS})
    second = noted("second", {Fact.CONSTANTS}, {Fact.NORMS})
    with pytest.raises(ConversionError, match=r"'second' requires that what depends on no input"):
        run([second, first], ran, {Fact.PLAIN})
    with pytest.raises(ConversionError, match=r"'first' requires that ATen operations alone"):
        run([first, second], ran, ())
    assert ran == []
    run([first, second], ran, {Fact.PLAIN})
    assert ran == ["first", "second"]
