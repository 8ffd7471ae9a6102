"""From words to values: lists, numbers below 0, first letters, values that may be left out."""

from typing import Any

import pytest

from fewspikes.commands import convert as convert_command
from fewspikes.commands import evaluate, fit
from fewspikes.commands.app import app
from fewspikes.commands.parsing import called


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What commands were called with, which don't run."""
    found: list[tuple[Any, Any]] = []

    def seen(name: Any, options: Any, **_: Any) -> int:
        found.append((name, options))
        return 0

    monkeypatch.setattr(convert_command, "converted", seen)
    monkeypatch.setattr(evaluate, "_run", seen)
    monkeypatch.setattr(fit, "_run", seen)
    return found


_CONVERT = "--data d --output o --steps 8 4 6"


@pytest.mark.parametrize(
    "words",
    [
        f"convert net {_CONVERT}",
        f"convert {_CONVERT} --model net",
        f"convert --model=net {_CONVERT}",
    ],
)
def test_the_model_by_place_or_name(words: str, given: list[tuple[Any, Any]]) -> None:
    assert called(app(), words.split()) == 0
    ((name, options),) = given
    assert name == "net" and options.steps == [8, 4, 6]
    assert str(options.output) == "o" and options.calibration is None


def test_values_of_options(given: list[tuple[Any, Any]]) -> None:
    words = f"convert net {_CONVERT} --mean -0.5 .5 1e-1 --corrupt-limit 2% --dynamic a:1=b c:0=d"
    assert called(app(), words.split()) == 0
    options = given[0][1]
    assert options.mean == [-0.5, 0.5, 0.1] and options.corrupt_limit == 0.02
    assert options.dynamic == [("a", 1, "b"), ("c", 0, "d")]
    assert called(app(), "fit silu --normal -1 2 --steps 3 4".split()) == 0
    assert given[1][1].normal == (-1, 2) and given[1][1].steps == [3, 4]


@pytest.mark.parametrize(
    ("words", "encode", "max_pool"),
    [
        ("", False, False),
        ("--encode", True, False),
        ("--encode --max-pool", True, True),
        ("--enc=all --max-pool first", "all", "first"),
        ("--max-pool --encode operands", True, True),
    ],
)
def test_a_word_that_may_be_left_out(
    given: list[tuple[Any, Any]], words: str, encode: Any, max_pool: Any
) -> None:
    assert called(app(), f"convert net {_CONVERT} {words}".split()) == 0
    found = convert_command.settings(given[0][1])
    assert (found.encode, found.max_pool) == (encode, max_pool)


@pytest.mark.parametrize(
    ("words", "json"),
    [("--json", "-"), ("--json -", "-"), ("--json a.json", "a.json"), ("--json --quiet", "-")],
)
def test_json_to_stdout_or_a_file(given: list[tuple[Any, Any]], words: str, json: str) -> None:
    assert called(app(), f"evaluate a.fsnn --data d {words}".split()) == 0
    assert given[0][1].json == json


def test_what_stands_behind_two_dashes_is_no_option(given: list[tuple[Any, Any]]) -> None:
    assert called(app(), [*f"convert {_CONVERT} --".split(), "--net"]) == 0
    assert given[0][0] == "--net"
