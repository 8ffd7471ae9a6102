"""The error of outputs that are no classes."""

import math

import pytest
import torch
from torch import Tensor

from convert.errors import InputError
from convert.evaluation.output_error import OutputError


def test_a_constant_prediction_has_error_one() -> None:
    measure = OutputError()
    reference = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 100
    for part in reference.split(7):
        measure.add({"output": reference.mean(0).expand_as(part)}, {"output": part}, None)
    assert measure.values["relative_error"] == pytest.approx(1, rel=1e-6)


def test_outputs_count_by_their_own_spread() -> None:
    reference = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    measure = OutputError()
    exact = {"a": reference[:, :1], "b": 1000 * reference[:, 1:]}
    measure.add({"a": exact["a"] * 1.3, "b": exact["b"] * 1.4}, exact, None)
    assert measure.values["relative_error"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2), rel=0.02)


def test_what_has_no_spread_has_no_relative_error() -> None:
    constant = torch.full((5, 2), 0.1)
    same, other, both = OutputError(), OutputError(), OutputError()
    same.add({"output": constant}, {"output": constant}, None)
    other.add({"output": constant + 1}, {"output": constant}, None)
    moving = torch.arange(10.0).view(5, 2)
    both.add({"a": constant + 1, "b": moving * 2}, {"a": constant, "b": moving}, None)
    assert same.values["relative_error"] == 0
    assert other.values == {"relative_error": None, "by_output": {"output": None}}
    assert both.values["by_output"]["a"] is None
    assert both.values["relative_error"] == both.values["by_output"]["b"] > 1


def _outputs(**values: Tensor) -> dict[str, Tensor]:
    return values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_error_and_is_counted(value: float) -> None:
    random = torch.Generator().manual_seed(0)
    exact = _outputs(a=torch.randn(6, 2, generator=random), b=torch.randn(6, generator=random))
    found = {name: output.clone() for name, output in exact.items()}
    found["a"][1, 0] = found["a"][4] = found["b"][4] = value
    measure, original = OutputError(), OutputError()
    measure.add(found, exact, None)
    original.add(exact, exact, None)
    assert measure.values.not_finite == measure.site["not_finite"] == 2
    # One output without a value isn't left out of the error of both.
    assert measure.values.relative_error is None and measure.values.by_output["a"] is None
    assert original.original == {} and original.values.relative_error == 0
    original.add(found, found, None)
    assert original.original == {"not_finite": 2}


def test_a_number_without_dimensions_counts_as_one_image() -> None:
    measure = OutputError()
    outputs = _outputs(loss=torch.tensor(math.nan), empty=torch.ones(2, 0))
    measure.add(outputs, outputs, None)
    assert measure.values.not_finite == 1


def test_outputs_of_another_model_are_refused() -> None:
    one = _outputs(a=torch.ones(2, 3))
    with pytest.raises(InputError, match=r"a: shape.*\[2, 3\].*\[2, 4\]"):
        OutputError().add(_outputs(a=torch.ones(2, 4)), one, None)
    with pytest.raises(InputError, match=r"1 outputs.*2"):
        OutputError().add(_outputs(a=torch.ones(2, 3), b=torch.ones(2)), one, None)


def test_texts_of_several_lengths_have_an_error() -> None:
    random = torch.Generator().manual_seed(0)
    measure = OutputError()
    exact = [torch.randn(4, length, 3, generator=random) for length in (5, 7)]
    for part in exact:
        measure.add({"output": part * 1.25}, {"output": part}, None)
    rows = torch.cat([part.reshape(-1, 3) for part in exact]).double()
    expected = 0.25 * rows.norm() / (rows - rows.mean(0)).norm()
    assert measure.values.relative_error == pytest.approx(float(expected), rel=1e-6)
    assert "output has several shapes" in measure.remarks()[0]


def test_other_numbers_of_detections_are_one_line() -> None:
    found, exact = torch.ones(2, 4), torch.ones(3, 4)
    with pytest.raises(InputError, match=r"3 from the original, 2 from.*of detections give a"):
        OutputError().add({"output[0]['boxes']": found}, {"output[0]['boxes']": exact}, None)
