"""Capture: the graph equals the model, shares nothing with it, and says what it can't do."""

import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import ConversionError, to_spiking
from convert.capture.capture import capture
from convert.errors import CaptureError, InputError
from convert.sites.find import find_sites


def _trained_norms(model: nn.Module, x: Tensor) -> nn.Module:
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return model.eval()


def test_batch_norm_is_folded_where_it_can_be() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 3, 6, 6) + 1
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5))
    captured = capture(_trained_norms(model, x), x[:2])
    nodes = captured.graph_module.graph.nodes
    ops = [str(n.target) for n in nodes if n.op == "call_function"]
    assert not any("batch_norm" in op for op in ops)
    assert sum("mul" in op for op in ops) == 1  # the one behind the ReLU stays as affine
    torch.testing.assert_close(captured.graph_module(x)[0], model(x), rtol=1e-4, atol=1e-5)


def test_dropout_is_gone_and_training_mode_gets_a_word() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.ReLU()).train()
    x = torch.randn(5, 4)
    with pytest.warns(UserWarning, match="training mode"):
        captured = capture(model, x)
    assert model.training and model[1].training
    with torch.no_grad():
        assert torch.equal(captured.graph_module(x)[0], captured.graph_module(x)[0])
        torch.testing.assert_close(captured.graph_module(x)[0], model.eval()(x))


class Part(nn.Module):
    """A function between two linear maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(4, 6), function
        self.width = function(torch.zeros(1, 6)).shape[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x)) @ torch.ones(self.width, 1)


class Parts(nn.Module):
    """Many of them side by side, so that one capture does for all."""

    def __init__(self, functions: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(Part, functions))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


def test_activations_become_sites() -> None:
    functions: list[Callable[[Tensor], Tensor]] = [
        F.hardswish, F.mish, F.selu, F.logsigmoid, F.softplus, F.elu, F.leaky_relu, F.hardtanh,
        F.gelu, F.silu, F.relu6, F.celu, F.tanhshrink, F.softsign, F.hardshrink, F.softshrink,
        lambda x: F.glu(x, -1), lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: x * x,
        lambda x: F.threshold(x, 0.1, 0.0), torch.abs, lambda x: torch.maximum(x, 0.3 * x),
    ]  # fmt: skip
    torch.manual_seed(0)
    x, net = torch.randn(64, 4) * 3, Parts(functions).eval()
    captured = capture(net, x[:2])
    names = [site.name for site in find_sites(captured.graph_module)]
    for index, function in enumerate(functions):
        assert any(name.startswith(f"parts.{index}.") for name in names), function
    with torch.no_grad():
        for found, expected in zip(captured.graph_module(x), net(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_model_is_left_alone_and_nothing_is_shared(small: nn.Module, images: Tensor) -> None:
    calls: list[int] = []
    small.first.register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in small.state_dict().items()}
    keys = set(dir(small))
    captured = capture(small, images[:2])
    expected = captured.graph_module(images)[0]
    calls.clear()
    captured.graph_module(images)
    assert calls == []
    small(images)
    assert calls == [1]
    assert set(dir(small)) == keys
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())
    theirs = {p.untyped_storage().data_ptr() for p in small.state_dict().values()}
    ours = {p.untyped_storage().data_ptr() for p in captured.graph_module.state_dict().values()}
    assert not theirs & ours
    for p in small.parameters():
        p.data.zero_()
    assert torch.equal(captured.graph_module(images)[0], expected)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(x)
        return torch.relu(x) if x.sum() > 0 else x


def test_control_flow_on_data_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"control flow|branch|data"):
        capture(Branch().eval(), torch.randn(4, 3))


class PerBatch(nn.Module):
    """Gives another result for another batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.line(x)) * torch.rand(1)


def test_a_graph_that_differs_is_refused_with_the_difference() -> None:
    with pytest.raises(CaptureError, match=r"differ|random"):
        capture(PerBatch().eval(), torch.randn(4, 3))


def test_input_is_checked_at_each_call(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=3, method="binary")
    for wrong in (images[:, :, :4], images[0], images.expand(-1, 3, -1, -1)):
        with pytest.raises(InputError, match=r"8"):
            snn(wrong)
    with pytest.raises(ConversionError):
        snn()
    with pytest.raises(ConversionError):
        snn("image")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        joint = torch.relu(self.a(left) + self.b(right))
        return {"logits": joint, "mean": joint.mean(1)}


def test_several_inputs_by_keyword_and_a_dict_of_outputs() -> None:
    torch.manual_seed(0)
    batch = {"left": torch.randn(20, 3), "right": torch.randn(20, 5)}
    model = Two().eval()
    snn = to_spiking(model, [batch], steps=10, method="binary")
    with torch.no_grad():
        found, expected = snn(**batch), model(**batch)
    assert set(found) == {"logits", "mean"}
    for key, value in expected.items():
        assert (found[key] - value).abs().max() < 0.02


def test_double_precision(small: nn.Module, images: Tensor) -> None:
    small.double()
    snn = to_spiking(small, images.double(), steps=4, method="binary")
    assert snn(images.double()).dtype == torch.float64


def test_no_warning_for_a_model_in_eval_mode(small: nn.Module, images: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(small, images[:2])
