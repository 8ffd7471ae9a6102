"""The spiking network: called like the original, cut, refitted, partly exact, and back."""

import copy

import pytest
import torch
from torch import Tensor, nn

from convert import ConversionError, to_spiking
from convert.errors import InputError, SiteError
from convert.fitting import tbpi
from convert.network.model import SpikingModel


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network with six steps, fitted for three as well; not to be changed."""
    return to_spiking(small_model, noise, steps=[6, 3], method="binary", sequential=False)


@pytest.fixture
def snn(converted: SpikingModel) -> SpikingModel:
    return copy.deepcopy(converted)


@pytest.fixture(scope="module")
def halves(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """Calibrated on the images in two batches; not to be changed."""
    return to_spiking(small_model, [noise[:24], noise[24:]], steps=4, method="binary")


def test_is_close_to_the_model_and_any_batch_size_works(snn, small, images) -> None:
    with torch.no_grad():
        expected = small(images)
        assert (snn(images) - expected).norm() < 0.15 * expected.norm()
        for size in (1, 7):
            assert snn(images[:size]).shape == (size, 4)
        torch.testing.assert_close(snn(images[:7]), snn(images)[:7], rtol=1e-4, atol=1e-4)


def test_original_is_the_model(snn, small, images) -> None:
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(images), small(images), rtol=1e-4, atol=1e-5)
        # ... and shares nothing with the user's model.
        before = snn.original()(images)
        small.first.weight.data.zero_()
        assert torch.equal(snn.original()(images), before)


def test_all_sites_are_neurons(snn) -> None:
    assert sorted(snn.sites) == ["act", "silu"]
    assert all(neuron.steps == 6 for neuron in snn.sites.values())
    with pytest.raises(ConversionError, match="act"):
        snn.sites["nothing"]


def test_last_step_is_the_network_bit_for_bit(snn, images) -> None:
    with torch.no_grad():
        whole = snn(images)
        for corrected in (True, False):
            with snn.readout(6, corrected=corrected):
                assert torch.equal(snn(images), whole)
            with snn.readout(2, corrected=corrected):
                assert not torch.equal(snn(images), whole)
        assert torch.equal(snn(images), whole)


def test_correction_takes_the_mean_error_out(snn, small, images) -> None:
    neuron = snn.sites["silu"]
    with torch.no_grad():
        potential = small.first(images)
        whole, means = neuron(potential).mean(), []
        for corrected in (True, False):
            with snn.readout(2, corrected=corrected):
                means.append(float((neuron(potential) - whole).abs().mean()))
                means.append(float((neuron(potential).mean() - whole).abs()))
    assert means[1] < 1e-3
    assert means[3] > 0.02
    assert means[0] > 1e-3  # values differ, only their mean does not


@pytest.mark.parametrize("step", [0, -1, 2.5, True])
def test_readout_refuses(snn, step) -> None:
    with pytest.raises(InputError, match="step"), snn.readout(step):
        pass


def test_refit_of_another_k(snn, images) -> None:
    with torch.no_grad():
        whole = snn(images)
        with snn.with_steps(3):
            assert all(neuron.steps == 3 for neuron in snn.sites.values())
            coarse = snn(images)
        assert torch.equal(snn(images), whole)
        exact = snn.original()(images)
    assert (coarse - exact).norm() > (whole - exact).norm()
    with torch.no_grad(), snn.with_steps(snn.steps):
        assert torch.equal(snn(images), whole)
    with pytest.raises(InputError, match="3"), snn.with_steps(5):
        pass


def test_one_site_alone(snn, small, images) -> None:
    with torch.no_grad():
        with snn.spiking_only([]):
            torch.testing.assert_close(snn(images), small(images), rtol=1e-4, atol=1e-5)
        with snn.spiking_only(["silu"]):
            x = snn.sites["silu"](small.first(images))
            expected = small.head(torch.relu(small.second(x) + x).mean((2, 3)))
            torch.testing.assert_close(snn(images), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(SiteError), snn.spiking_only(["nothing"]):
        pass


def test_spikes_are_those_of_the_neurons(snn, small, images) -> None:
    seen: dict[str, Tensor] = {}
    for name, neuron in snn.sites.items():
        neuron.register_forward_pre_hook(lambda m, a, n=name: seen.__setitem__(n, a[0].clone()))
    with torch.no_grad(), snn.count_spikes() as counts:
        snn(images)
    for name, neuron in snn.sites.items():
        assert counts[name] == int(neuron.spikes(seen[name]).sum()) > 0


def test_wrong_input_is_a_readable_error(snn) -> None:
    with pytest.raises(InputError, match=r"1.*8.*8"):
        snn(torch.zeros(2, 3, 8, 8))


def test_per_site_steps_and_globs(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=4, method="binary", per_site_steps={"si*": 7})
    assert {n: neuron.steps for n, neuron in snn.sites.items()} == {"silu": 7, "act": 4}
    with pytest.raises(ConversionError, match="nothing"):
        to_spiking(small, images, steps=4, method="binary", per_site_steps={"nothing": 3})


@pytest.mark.parametrize("steps", [0, -3, 2.5, "8", True, [], None])
def test_steps_are_checked(small: nn.Module, images: Tensor, steps) -> None:
    with pytest.raises(ConversionError, match="steps"):
        to_spiking(small, images, steps=steps)


@pytest.mark.parametrize("form", ["tensor", "list", "pairs", "iterator", "loader"])
def test_calibration_in_any_form(
    small: nn.Module, images: Tensor, form: str, halves: SpikingModel
) -> None:
    labels = torch.zeros(48, dtype=torch.long)
    data = {
        "tensor": images,
        "list": [images[:24], images[24:]],
        "pairs": [(images[:24], labels[:24]), (images[24:], labels[24:])],
        "iterator": iter([images[:24], images[24:]]),
        "loader": torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(images, labels), batch_size=24
        ),
    }[form]
    snn = to_spiking(small, data, steps=4, method="binary")
    for name, neuron in snn.sites.items():
        torch.testing.assert_close(neuron.thresholds, halves.sites[name].thresholds)


def test_dtype_and_state_dict_follow(snn, images) -> None:
    double = snn.double()
    assert double(images.double()).dtype == torch.float64
    assert any("thresholds" in key for key in snn.state_dict())


def test_no_site_is_an_error() -> None:
    with pytest.raises(SiteError, match="no"):
        to_spiking(nn.Sequential(nn.Linear(3, 3)), torch.randn(8, 3), steps=4)


def test_same_seed_same_network(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tenth of the training is as random.
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
    monkeypatch.setattr(tbpi, "_EPOCHS_THIRD", 2000)
    first, again = (to_spiking(small, images, steps=3, method="tbpi", seed=4) for _ in range(2))
    for name, neuron in first.sites.items():
        assert torch.equal(neuron.thresholds, again.sites[name].thresholds)
        assert torch.equal(neuron.weights, again.sites[name].weights)
