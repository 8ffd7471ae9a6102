"""What each size of a site costs: summed up, it is what the whole network is counted to cost."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convert import CalibrationError, InputError, SpikingModel, refit, to_spiking
from convert.inspect import count_operations, energy


class Skipping(nn.Module):
    """A convolution, a skip connection around the next, a pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[0, 1])
def chosen(request: pytest.FixtureRequest, images: Tensor) -> Iterator[SpikingModel]:
    torch.manual_seed(0)
    gates = request.param
    yield to_spiking(
        Skipping().eval(),
        images,
        steps="auto",
        budget_operations=60_000,
        gates=gates,
        progress=False,
    )


def said(snn: SpikingModel) -> float:
    """What the report says that an image costs."""
    note = next(n for n in snn.report.notes if n.startswith("steps per site"))
    return float(note.partition(": ")[2].rpartition("budget_")[2].split(": ")[1].split()[0])


def test_a_budget_of_operations_is_kept(chosen: SpikingModel, images: Tensor) -> None:
    counted = count_operations(chosen, images, progress=False).operations
    assert said(chosen) <= 60_000 and counted == pytest.approx(said(chosen), rel=0.03)
    more = refit(chosen, images, budget_operations=90_000, progress=False)
    assert said(more) > said(chosen)
    counted = count_operations(more, images, progress=False).operations
    assert counted == pytest.approx(said(more), rel=0.03)


def test_a_budget_of_energy_is_kept(chosen: SpikingModel, images: Tensor) -> None:
    def usual(snn: SpikingModel) -> float:
        priced = energy(count_operations(snn, images, progress=False))
        return next(
            row.cost.usual
            for row in priced.rows
            if (row.name, row.what, row.numbers) == ("with_memory", "spiking", "float32")
        )

    most = 0.9 * usual(chosen)
    cheaper = refit(chosen, images, budget_energy=most, progress=False)
    assert said(cheaper) <= most
    assert usual(cheaper) == pytest.approx(said(cheaper), rel=0.03)
    assert cheaper.report.settings.budget_operations is None


def test_refusals(chosen: SpikingModel, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"budget_operations=10 is less than the .* operations"):
        refit(chosen, images, budget_operations=10, progress=False)
    with pytest.raises(InputError, match=r"budget_energy=0.001 is less than the .* nJ for one"):
        refit(chosen, images, budget_energy=1e-3, progress=False)
    with pytest.raises(CalibrationError, match="give calibration data"):
        refit(chosen, budget_energy=1e9, progress=False)
