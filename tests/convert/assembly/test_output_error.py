"""The error of the outputs on calibration data, and what is said where it is poor."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, load, refit, to_spiking


class Loudness(nn.Module):
    """Logarithms of magnitudes: inputs over five decades count alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = x.chunk(2, 1)
        magnitude = torch.sqrt(real.square() + imaginary.square() + 1e-12)
        return self.last(torch.relu(self.hidden(torch.log(magnitude + 1e-5))))


@pytest.fixture(scope="module")
def decades() -> Tensor:
    """Images whose sizes lie over five decades."""
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(-11 * torch.rand(256, 1, generator=generator))
    return size * torch.randn(256, 32, generator=generator)


@pytest.fixture(scope="module")
def poor(decades: Tensor) -> SpikingModel:
    """A network whose sites look good and whose outputs aren't; not to be changed."""
    with pytest.warns(UserWarning, match=r"relative output error .* POOR.*square"):
        return to_spiking(Loudness().eval(), decades, steps=[8, 2], progress=False)


def test_good_sites_and_a_poor_network(poor: SpikingModel, decades: Tensor) -> None:
    assert not any(site.poor for site in poor.report.sites)
    own, fewer = poor.report.output_errors
    with torch.no_grad():
        exact, found = poor.original()(decades), poor(decades)
    measured = float((found - exact).norm() / exact.norm())
    assert (own.steps, fewer.steps) == (8, 2) and own.images == len(decades)
    assert own.error == pytest.approx(measured, rel=1e-3)
    assert own.poor and own.error > 0.25 and fewer.error > own.error
    # The squares are coarse where they are small, which the logarithm makes much of.
    assert own.site in ("square", "square_1")
    with torch.no_grad(), poor.spiking_only({own.site}):
        alone = float((poor(decades[:32]) - exact[:32]).norm() / exact[:32].norm())
    assert own.alone == pytest.approx(alone, rel=1e-3)
    assert poor.report.to_dict()["output_errors"][0]["poor"] is True
    assert f"site {own.site} makes the largest error" in str(poor.report)


def test_a_good_network_raises_no_alarm(small_model: nn.Module, noise: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn = to_spiking(small_model, noise, steps=8, method="binary", progress=False)
    (row,) = snn.report.output_errors
    assert not row.poor and row.site is None and "POOR" not in str(snn.report)


@pytest.mark.parametrize("sequential", [True, False])
def test_the_error_is_measured_with_and_without_corrections(
    small_model: nn.Module, noise: Tensor, sequential: bool
) -> None:
    settings = {"method": "binary", "sequential": sequential, "progress": False}
    snn = to_spiking(small_model, noise, steps=[4, 6], **settings)
    with torch.no_grad():
        exact = snn.original()(noise)
        for row in snn.report.output_errors:
            with snn.with_steps(row.steps):
                found = snn(noise)
            assert row.error == pytest.approx(
                float((found - exact).norm() / exact.norm()), rel=1e-3
            )


def test_a_poor_site_is_marked(small_model: nn.Module, noise: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = to_spiking(small_model, noise, steps=1, method="binary", progress=False)
    assert any(site.poor for site in snn.report.sites)
    assert "POOR: the neuron's error is more than 10% of the variance" in str(snn.report)
    assert [row["poor"] for row in snn.report.to_dict()["sites"]] == [
        row.poor for row in snn.report.sites
    ]


def test_a_file_keeps_it_and_a_refit_without_data_has_none(
    poor: SpikingModel, tmp_path: Path
) -> None:
    poor.save(tmp_path / "poor.fsnn")
    back = load(tmp_path / "poor.fsnn")
    assert back.report.output_errors == poor.report.output_errors
    assert refit(back, steps=9, method="binary", progress=False).report.output_errors == []


def test_a_value_that_only_spiking_makes_infinite_counts() -> None:
    from convert.assembly.side_by_side import relative_error

    exact, found = torch.ones(2, 3), torch.ones(2, 3)
    found[0, 0] = math.nan
    assert relative_error([[exact]], [[found]]) == math.inf
    exact[0, 0] = math.nan
    assert relative_error([[exact]], [[found]]) == 0
