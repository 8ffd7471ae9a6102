"""Settings of a conversion: one form, checked when made, whole in JSON and pickles."""

import dataclasses
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convert import ConversionError, ConversionSettings, InputError, to_spiking
from convert.network.settings import MOST_STEPS, Automatic, SiteNumbers

_FULL = ConversionSettings(
    steps=[3, 5],
    seed=7,
    method="binary",
    per_site_steps={"layer1.*": 4, "*": 6},
    gates=3,
    per_site_gates={"layer1.*": 1, "*": 0},
    effort="high",
    sequential=False,
    encode="all",
    normalisation=True,
    max_pool="first",
    batch_axis={"state": 1, "mask": None},
    dynamic={"state": {0: "length"}, "mask": [1, -1]},
    modules=["backbone", "head.*"],
)


@pytest.mark.parametrize(
    ("steps", "kept"),
    [
        (4, (4,)),
        ([4], (4,)),
        ([3, 5], (3, 5)),
        (range(2, 4), (2, 3)),
        (np.int64(4), (4,)),
        (np.array([3, 5]), (3, 5)),
        (torch.tensor(4), (4,)),
        (torch.tensor([3, 5]), (3, 5)),
        ([torch.tensor(3), np.uint8(5)], (3, 5)),
        (MOST_STEPS, (MOST_STEPS,)),
    ],
)
def test_whole_numbers_of_every_kind(steps: Any, kept: tuple[int, ...]) -> None:
    made = ConversionSettings(
        steps=steps, per_site_steps={"a": np.array(kept)[0]}, seed=np.int32(3)
    )
    assert made.wanted == kept and made.automatic is None
    numbers = [*made.wanted, made.seed, made.per_site_steps["a"]]
    assert [type(k) for k in numbers] == [int] * len(numbers)
    assert made == ConversionSettings(steps=list(kept), per_site_steps={"a": kept[0]}, seed=3)


def test_how_steps_are_chosen() -> None:
    assert ConversionSettings(steps="auto").automatic == Automatic(0.005, None)
    assert ConversionSettings(steps="auto", max_loss=0.1).automatic == Automatic(0.1, None)
    made = ConversionSettings(steps="auto", max_loss=np.float32(0.25))
    assert made.max_loss == 0.25 and type(made.max_loss) is float
    made = ConversionSettings(steps="auto", budget=torch.tensor(9))
    assert made.automatic is not None and made.automatic.budget == 9 and made.wanted == ()
    assert type(made.budget) is int


_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, r"steps: every K must be a whole number from 1 to 63.*found 0$"),
    ({"steps": []}, r"steps must name every K once, and one at least, found \[\]"),
    ({"steps": [4, 4]}, r"steps must name every K once.*\[4, 4\]"),
    ({"steps": [4, 0]}, r"steps: .*found \[4, 0\]"),
    ({"steps": "8"}, r"steps must be a whole number, several, or \"auto\", found '8'"),
    ({"steps": 64}, r"steps: .*from 1 to 63, the most that a spike code holds, found 64"),
    ({"steps": True}, r"steps: .*found True"),
    ({"steps": torch.tensor(True)}, r"steps: .*found tensor\(True\)"),
    ({"steps": 2.0}, r"steps: .*found 2\.0"),
    ({"steps": None}, r"steps: .*found None"),
    ({"steps": {4, 5}}, r"steps: .*found \{4, 5\}"),
    ({"max_loss": 0.1}, r'max_loss, .* and budget_energy go with steps="auto", found steps=8'),
    ({"budget": 9}, r'go with steps="auto"'),
    ({"steps": "auto", "budget": 9, "max_loss": 0.1}, "not both"),
    ({"steps": "auto", "budget": 2.5}, r"budget must be a whole number >= 1, found 2\.5"),
    ({"steps": "auto", "budget": 0}, "budget must be .* found 0"),
    ({"budget_spikes": 0.5}, r'go with steps="auto"'),
    ({"steps": "auto", "budget": 9, "budget_spikes": 0.5}, "give budget or budget_spikes"),
    ({"steps": "auto", "budget_spikes": 0}, "budget_spikes must be a number .* > 0, found 0"),
    ({"steps": "auto", "budget_spikes": float("inf")}, "budget_spikes must .* found inf"),
    ({"steps": "auto", "budget_spikes": "few"}, "budget_spikes must .* found 'few'"),
    (
        {"steps": "auto", "budget_operations": -1},
        "budget_operations must .* operations .* found -1",
    ),
    ({"steps": "auto", "budget_energy": 0.0}, "budget_energy must .* nanojoules .* found 0.0"),
    ({"steps": "auto", "budget_energy": 1, "budget": 9}, "give budget or budget_energy"),
    ({"spike_cost": -0.1}, r"spike_cost must be a finite number >= 0, found -0\.1"),
    ({"spike_cost": float("nan")}, "spike_cost must .* found nan"),
    ({"spike_cost": float("inf")}, "spike_cost must .* found inf"),
    ({"spike_cost": True}, "spike_cost must .* found True"),
    ({"spike_cost": "dear"}, "spike_cost must .* found 'dear'"),
    ({"spike_cost": None}, "spike_cost must .* found None"),
    (
        {"spike_cost": 0.1, "method": "binary"},
        "spike_cost needs method='tbpi-exact', or 0; 'binary' can't heed it",
    ),
    ({"steps": "auto", "max_loss": 0}, "max_loss must be a number between 0 and 1, found 0"),
    ({"steps": "auto", "max_loss": float("nan")}, "max_loss .*nan"),
    ({"steps": "auto", "max_loss": True}, "max_loss .*True"),
    ({"steps": "auto", "max_loss": "little"}, "max_loss .*'little'"),
    ({"seed": -1}, "seed must be a whole number >= 0, found -1"),
    ({"seed": True}, "seed .*True"),
    ({"seed": 1.0}, r"seed .*1\.0"),
    ({"method": "magic"}, "no method is called 'magic'; choose from tbpi-exact"),
    ({"method": ["binary"]}, "no method is called"),
    ({"effort": "great"}, "effort must be one of normal, high, found 'great'"),
    ({"per_site_steps": {"1": [4, 9]}}, r"per_site_steps: K of '1' must be .*found \[4, 9\]"),
    ({"per_site_steps": {"1": "8"}}, "per_site_steps: K of '1' must be .*found '8'"),
    ({"per_site_steps": {"1": True}}, "per_site_steps: K of '1' must be .*found True"),
    ({"per_site_steps": {"1": 64}}, "per_site_steps: K of '1' must be .*63.*found 64"),
    ({"per_site_steps": {1: 4}}, "per_site_steps must name sites by strings.*found 1$"),
    ({"per_site_steps": [("1", 4)]}, "per_site_steps must give K by the name or glob"),
    ({"per_site_steps": 4}, "per_site_steps must give K by the name or glob.*found 4$"),
    ({"sequential": "no"}, "sequential must be False or True, found 'no'"),
    ({"encode": "some"}, "encode must be False, True or 'all', found 'some'"),
    ({"normalisation": "all"}, "normalisation must be False or True, found 'all'"),
    ({"batch_axis": "1"}, "batch_axis must be a whole number, or give one"),
    ({"batch_axis": 1.5}, "found 1.5"),
    ({"batch_axis": True}, "found True"),
    ({"batch_axis": {1: 1}}, "found {1: 1}"),
    ({"batch_axis": {"x": 0.5}}, "found {'x': 0.5}"),
    ({"max_pool": "all"}, "max_pool must be False, True or 'first', found 'all'"),
]


@pytest.mark.parametrize(("settings", "message"), _REFUSED)
def test_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message) as refused:
        ConversionSettings(**settings)
    assert "\n" not in str(refused.value)


class _Untouched:
    """Calibration data that nobody may read."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the data was read before the settings were checked")


@pytest.mark.parametrize("settings", [settings for settings, _ in _REFUSED])
def test_refused_before_anything_is_captured(settings: dict[str, Any]) -> None:
    with pytest.raises(ConversionError):
        to_spiking(nn.ReLU(), _Untouched(), progress=False, **settings)


@pytest.mark.parametrize(
    "made",
    [
        ConversionSettings(),
        _FULL,
        ConversionSettings(steps="auto", budget=9),
        ConversionSettings(steps="auto", budget_spikes=0.5, spike_cost=0.01),
        ConversionSettings(steps="auto", budget_operations=1e6),
        ConversionSettings(steps="auto", budget_energy=2.5),
    ],
)
def test_whole_in_json_and_pickles(made: ConversionSettings) -> None:
    data = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert set(data) == {field.name for field in dataclasses.fields(made)}
    assert ConversionSettings.from_dict(data) == made
    again = pickle.loads(pickle.dumps(made))
    assert again == made and hash(again) == hash(made)


def test_they_differ_where_one_setting_does() -> None:
    for field in dataclasses.fields(_FULL):
        # No method but the default one heeds a price.
        chooses = field.name == "max_loss" or field.name.startswith("budget")
        if not chooses and field.name != "spike_cost":
            other = getattr(ConversionSettings(), field.name)
            assert dataclasses.replace(_FULL, **{field.name: other}) != _FULL
    # The last pattern that matches a site decides.
    assert SiteNumbers({"a": 1, "*": 2}) != SiteNumbers({"*": 2, "a": 1})


def test_a_price_is_a_number_of_any_kind() -> None:
    for price in (0.25, np.float32(0.25), torch.tensor(0.25)):
        made = ConversionSettings(spike_cost=price)  # type: ignore[arg-type]
        assert made.spike_cost == 0.25 and type(made.spike_cost) is float
    assert made != ConversionSettings()
    assert made.changed({"spike_cost": 0.0}) == ConversionSettings()
    with pytest.raises(InputError, match="spike_cost needs method"):
        made.changed({"method": "binary"})


def test_what_is_chosen_for() -> None:
    """Steps, unless events have a price or a budget and steps have none."""
    auto = ConversionSettings(steps="auto")
    for given, counted in (
        ({}, False),
        ({"spike_cost": 0.1}, True),
        ({"budget_spikes": 1.0}, True),
        ({"spike_cost": 0.1, "budget": 9}, False),
        ({"spike_cost": 0.1, "max_loss": 0.1}, True),
    ):
        chosen = auto.changed(given).automatic
        assert chosen is not None and chosen.counts_spikes == counted


def test_can_not_be_changed() -> None:
    patterns = {"a": 3}
    made = ConversionSettings(per_site_steps=patterns)
    patterns["a"] = 4
    assert made.per_site_steps == {"a": 3}
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.per_site_steps["a"] = 4  # type: ignore[index]


def test_what_is_not_given_stays() -> None:
    assert _FULL.changed({"steps": None, "encode": None}) == _FULL
    changed = _FULL.changed({"seed": 0, "sequential": True, "per_site_steps": {}})
    assert (changed.seed, changed.sequential, dict(changed.per_site_steps)) == (0, True, {})
    assert dataclasses.replace(changed, seed=7, sequential=False) == dataclasses.replace(
        _FULL, per_site_steps={}
    )
    with pytest.raises(InputError, match="steps"):
        _FULL.changed({"steps": 0})


def test_what_decides_on_steps_goes_together() -> None:
    chosen = ConversionSettings(steps="auto", budget=9)
    assert chosen.changed({"steps": 4}) == ConversionSettings(steps=4)
    assert chosen.changed({"steps": "auto"}) == chosen
    assert chosen.changed({"budget": 7}).budget == 7
    loss = chosen.changed({"max_loss": 0.1})
    assert (loss.max_loss, loss.budget) == (0.1, None)
    assert loss.changed({"budget": 9}) == chosen
    spikes = chosen.changed({"budget_spikes": 0.5})
    assert (spikes.budget, spikes.budget_spikes) == (None, 0.5)
    assert spikes.changed({"budget": 9}) == chosen
    assert ConversionSettings().changed({"steps": "auto"}).automatic == Automatic()
    with pytest.raises(InputError, match="not both"):
        chosen.changed({"max_loss": 0.1, "budget": 9})
    with pytest.raises(InputError, match="auto"):
        ConversionSettings().changed({"budget": 9})


def test_a_method_that_is_not_here_is_kept_by_name() -> None:
    read = ConversionSettings.from_dict(_FULL.to_dict() | {"method": "my-method"})
    assert read.method == "my-method" and read.per_site_steps == _FULL.per_site_steps
    with pytest.raises(ConversionError, match="my-method"):
        read.changed({"seed": 1})
    assert read.changed({"method": "binary"}) == _FULL


def test_what_is_no_setting_is_refused() -> None:
    assert ConversionSettings.from_dict({"seed": 4}) == ConversionSettings(seed=4)
    with pytest.raises(InputError, match="'speed'"):
        ConversionSettings.from_dict({"speed": 4})
