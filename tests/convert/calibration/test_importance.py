"""What an error of a site does to the outputs, as calibration weighs it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convert
from convert.calibration.importance import Observer
from convert.calibration.observe import calibrate
from convert.capture.capture import capture
from convert.sites.find import find_sites


def observe(model: nn.Module, batches: list[Tensor], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Inputs and importance of every site in graph order, over all batches."""
    captured = capture(model.eval(), batches[0])
    sites = find_sites(captured.graph_module)
    seen: dict[object, list[tuple[Tensor, Tensor]]] = {site.node: [] for site in sites}
    network = Observer(
        captured.graph_module, list(seen), lambda node, *what: seen[node].append(what), seed
    )
    for batch in batches:
        network.run(batch)
    return [(torch.cat([x for x, _ in s]), torch.cat([g for _, g in s])) for s in (seen.values())]


class Hidden(nn.Module):
    """One hidden layer."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.first(x)))


def test_of_one_output_it_is_the_squared_gradient() -> None:
    torch.manual_seed(0)
    model, x = Hidden(1), torch.randn(7, 4)
    ((_, importance),) = observe(model, [x])
    size = model(x).square().mean()
    expected = (model.last.weight.square() / size).expand(7, 6)
    torch.testing.assert_close(importance, expected.detach())


def test_of_many_outputs_it_is_their_sum_on_average() -> None:
    torch.manual_seed(0)
    model, x = Hidden(5), torch.randn(4000, 4)
    ((_, importance),) = observe(model, [x])
    size = model(x).square().mean()
    expected = model.last.weight.square().sum(0) / size
    assert torch.allclose(importance.mean(0), expected, rtol=0.1)


def test_signs_do_not_depend_on_the_batches() -> None:
    torch.manual_seed(0)
    model, x = Hidden(5), torch.randn(12, 4)
    ((_, whole),) = observe(model, [x])
    ((_, parts),) = observe(model, [x[:5], x[5:6], x[6:]])
    # The magnitude of the outputs is that of the first batch.
    torch.testing.assert_close(whole / whole.mean(), parts / parts.mean())
    ((_, again),) = observe(model, [x])
    assert torch.equal(whole, again)
    ((_, other),) = observe(model, [x], seed=1)
    assert not torch.equal(whole, other)


def test_weights_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = Hidden(3)
    observe(model, [torch.randn(8, 4)])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class Gate(nn.Module):
    """A gate a channel, as in squeeze and excitation; one output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 1), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.fc(x.mean((2, 3))))
        return (x * gate[:, :, None, None]).sum((1, 2, 3))


def test_a_gate_counts_by_what_it_lets_pass() -> None:
    torch.manual_seed(0)
    model, x = Gate(), torch.randn(20, 2, 4, 4)
    ((_, importance),) = observe(model, [x])
    expected = model.conv(x).sum((2, 3)).square() / model(x).square().mean()
    torch.testing.assert_close(importance, expected.detach(), rtol=1e-4, atol=1e-6)


class Masked(nn.Module):
    """Attention in which some positions are masked, and in row 0 all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 3)
        mask = torch.zeros(5, 5)
        mask[0], mask[1, 3:] = float("-inf"), float("-inf")
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.head(F.gelu(y).mean(1))


def test_masks_leave_the_rest_its_importance() -> None:
    torch.manual_seed(0)
    exp, reciprocal, gelu = observe(Masked(), [torch.randn(9, 5, 6)])
    for _, importance in (exp, reciprocal, gelu):
        assert importance.isfinite().all()
    rows = exp[1].view(9, 5, 5)
    assert (rows[:, 2:] > 0).all() and (rows[:, 0] == 0).all()
    assert (gelu[1] > 0).all()


class Pooled(nn.Module):
    """Only the largest of a window goes on."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(x), 2).sum((1, 2, 3))


def test_what_max_pooling_drops_counts_for_nothing() -> None:
    ((_, importance),) = observe(Pooled(), [torch.rand(3, 1, 4, 4) + 0.1])
    assert ((importance > 0).sum((1, 2, 3)) == 4).all()


class Several(nn.Module):
    """Outputs of unlike magnitude, and one that has no gradient."""

    def __init__(self, outputs: str) -> None:
        super().__init__()
        self.outputs = outputs
        self.first, self.between, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.between(F.silu(self.first(x)))
        z = self.last(F.gelu(y))
        found = {"large": 1e6 * y, "small": 1e-6 * z, "class": F.one_hot(z.argmax(1), 3) * 1.0}
        return {key: found[key] for key in self.outputs.split()}


def test_outputs_count_alike_whatever_their_magnitude() -> None:
    found = []
    for outputs in ("large small class", "small"):
        torch.manual_seed(0)
        (_, silu), (_, gelu) = observe(Several(outputs), [torch.randn(50, 4)])
        found.append((float(silu.mean()), float(gelu.mean())))
    (silu_both, gelu_both), (silu_small, gelu_small) = found
    assert gelu_both == pytest.approx(gelu_small, rel=0.5)
    assert silu_small < silu_both < 100 * silu_small


def test_without_a_gradient_every_value_counts() -> None:
    torch.manual_seed(0)
    model, x = Several("class").eval(), torch.randn(400, 4)
    captured = capture(model, x)
    observed = calibrate(captured, find_sites(captured.graph_module), [x])
    for histogram in observed.histograms.values():
        assert histogram.mass.sum() == 0 and histogram.total == 400 * 6
    snn = convert.to_spiking(model, x, steps=12, method="binary", progress=False)
    assert (snn(x)["class"] == model(x)["class"]).float().mean() > 0.7


@torch.library.custom_op("convert_tests::reverse", mutates_args=())
def reverse(x: Tensor) -> Tensor:
    """An operation of which nobody knows the derivative."""
    return x.flip(1)


@reverse.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Reversed(nn.Module):
    """A site in front of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return reverse(F.silu(self.first(x)))


def test_an_operation_without_derivative_is_said() -> None:
    x = torch.randn(300, 4)
    snn = convert.to_spiking(Reversed().eval(), x, steps=6, method="binary", progress=False)
    assert any("no gradient of the outputs reaches" in note for note in snn.report.notes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Hidden(2).to(dtype), torch.randn(64, 4).to(dtype)
    ((_, importance),) = observe(model, [x])
    assert importance.dtype == torch.float32 and (importance > 0).all()
