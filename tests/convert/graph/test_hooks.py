"""Hooks: what changes values is captured, what only looks stays out, what can't be is refused."""

import functools
import threading
import types
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch.nn.modules.module as torch_module
import torch.nn.utils.prune as prune
from torch import Tensor, nn

from convert import CaptureError, to_spiking
from convert.graph.capture import Captured, capture
from convert.graph.hooks import without_global_hooks

Make = Callable[[], nn.Module]


def _images(count: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def _checked(model: nn.Module) -> Captured:
    """Captured without a warning, and equal to the model on images that capture hasn't seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = capture(model, _images())
    x = _images(7, 1)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(captured.graph_module(x)[0], expected, rtol=1e-4, atol=1e-5)
    return captured


@pytest.fixture(autouse=True)
def _old_style_wanted() -> object:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch.nn.utils.weight_norm` is deprecated")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _weight_norm() -> nn.Module:
    model = _net()
    nn.utils.weight_norm(model[0])
    return model


def _spectral_norm() -> nn.Module:
    model = _net()
    nn.utils.spectral_norm(model[0])
    return model.eval()


def _pruned() -> nn.Module:
    model = _net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_structured(model[2], "weight", 0.3, dim=1)
    return model


def _equalised() -> nn.Module:
    """A pre-forward hook of the user's own that computes the weight."""
    model = _net()
    weight = model[0]._parameters.pop("weight")
    model[0].register_parameter("raw", weight)

    def scale(module: nn.Module, _: object) -> None:
        module.weight = 2 * module.raw

    model[0].register_forward_pre_hook(scale)
    return model


def _new_style() -> nn.Module:
    model = _net()
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.spectral_norm(model[2])
    return model.eval()


class Upper(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu()


def _parametrised() -> nn.Module:
    model = _net()
    nn.utils.parametrize.register_parametrization(model[0], "weight", Upper())
    return model


COMPUTED: list[Make] = [
    _weight_norm, _spectral_norm, _pruned, _equalised, _new_style, _parametrised,
]  # fmt: skip


@pytest.mark.parametrize("make", COMPUTED)
def test_computed_weights_of_loaded_models(make: Make) -> None:
    trained = make()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.5)
    loaded = make()
    loaded.load_state_dict(trained.state_dict())  # a weight that is an attribute is stale now
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    _checked(loaded)
    after = loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_fresh_weight_norm_never_run_is_named_in_the_report() -> None:
    model, x = _weight_norm(), _images(7, 1)
    snn = to_spiking(model, _images(64), steps=8, method="binary")
    assert any("WeightNorm of 0" in note for note in snn.report.notes)
    with torch.no_grad():
        assert (snn(x) - model(x)).norm() < 0.02 * model(x).norm()


class Lens:
    """A hook that is an object with numbers of its own."""

    def __init__(self) -> None:
        self.factors, self.calls = torch.rand(16) + 0.5, 0

    def __call__(self, module: nn.Module, given: object, out: Tensor) -> Tensor:
        self.calls += 1
        return out * self.factors


def _double(module: nn.Module, given: object, out: Tensor, factor: float = 2.0) -> Tensor:
    return factor * out


def _hooked(register: Callable[[nn.Sequential], object]) -> nn.Module:
    model = _net()
    register(model)
    return model


def _adapter(model: nn.Sequential) -> None:
    down, up = nn.Linear(8, 3), nn.Linear(3, 16)
    model[0].register_forward_hook(lambda m, given, out: out + up(down(given[0])))


def _own_scale(model: nn.Sequential) -> None:
    model.scale = nn.Linear(8, 16)
    model[0].register_forward_hook(lambda m, given, out: out * model.scale(given[0]))
    model.forward = types.MethodType(lambda self, x: self[2](self[1](self[0](x))), model)


def _skip(model: nn.Sequential) -> None:
    """One hook only looks, but another needs what it saw."""
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda m, given, out: seen.append(out))
    model[1].register_forward_hook(lambda m, given, out: out + seen[-1])


def _in_place(model: nn.Sequential) -> None:
    def double(module: nn.Module, given: object, out: Tensor) -> None:
        out.mul_(2)

    model[0].register_forward_hook(double)


CHANGING: list[Callable[[nn.Sequential], object]] = [
    lambda m: m[0].register_forward_pre_hook(lambda _, given: (given[0] * 2 + 1,)),
    lambda m: m[2].register_forward_pre_hook(lambda _, given: F.normalize(given[0], dim=1)),
    lambda m: m[0].register_forward_hook(
        lambda _, given, names, out: out * 3, with_kwargs=True, always_call=True
    ),
    lambda m: m.register_forward_pre_hook(lambda _, given: given[0] / 3),
    lambda m: m.register_forward_hook(lambda _, given, out: out + 1),
    lambda m: m[0].register_forward_hook(functools.partial(_double, factor=3.0)),
    lambda m: m[0].register_forward_hook(Lens()),
    # Changes nothing on these images, and would on others.
    lambda m: m[0].register_forward_hook(lambda _, given, out: out.clamp(max=100.0)),
    _adapter, _own_scale, _skip, _in_place,
]  # fmt: skip


@pytest.mark.parametrize("register", CHANGING)
def test_hooks_that_change_values_are_captured(register: Callable[[nn.Sequential], object]) -> None:
    captured = _checked(_hooked(register))
    assert any("part of the network" in note for note in captured.notes)


def test_a_clamp_that_nothing_reached_is_in_the_graph() -> None:
    model = _net()
    model[0].register_forward_hook(lambda _, given, out: out.clamp(max=100.0))
    captured, x = capture(model, _images()), 1000 * _images(7, 1)
    with torch.no_grad():
        torch.testing.assert_close(captured.graph_module(x)[0], model(x))


def test_the_graph_owns_what_hooks_read_from_elsewhere() -> None:
    model, factors, adapter = _net(), torch.rand(16), nn.Linear(8, 16)
    scale = types.SimpleNamespace(factors=factors, lock=threading.Lock())  # isn't copied
    model[0].register_forward_hook(lambda _, x, out: out * scale.factors + adapter(x[0]))
    captured, x = _checked(model), _images(7, 1)
    with torch.no_grad():
        expected = model(x)
        for tensor in (factors, *adapter.parameters(), *model.parameters()):
            tensor.zero_()
        torch.testing.assert_close(captured.graph_module(x)[0], expected, rtol=1e-4, atol=1e-5)


def _override(model: nn.Sequential) -> None:
    inner = model[0].forward
    model[0].forward = lambda x: 2 * inner(x) + 0.3


def _override_root(model: nn.Sequential) -> None:
    inner = model.forward
    model.forward = lambda x: inner(2 * x)


def _dispatched(model: nn.Sequential) -> None:
    """As accelerate wraps modules."""
    layer = model[0]
    layer.inner = layer.forward

    def forward(module: nn.Module, *args: Tensor) -> Tensor:
        return 1.5 * module.inner(*args)

    layer.forward = functools.update_wrapper(functools.partial(forward, layer), layer.inner)


@pytest.mark.parametrize("replace", [_override, _override_root, _dispatched])
def test_a_forward_replaced_on_one_module(replace: Callable[[nn.Sequential], None]) -> None:
    model = _hooked(replace)
    captured, expected = _checked(model), model(_images(7, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = captured.graph_module(_images(7, 1))[0]
    torch.testing.assert_close(found, expected.detach())  # the graph holds none of the model's own


class Features:
    """A feature extractor as people write them: it keeps what passes, and counts."""

    def __init__(self, module: nn.Module) -> None:
        self.kept: list[Tensor] = []
        self.sums: dict[str, float] = {}
        self.calls, self.mean = 0, torch.zeros(())
        module.register_forward_hook(self.look)

    def look(self, module: nn.Module, given: object, out: Tensor) -> None:
        self.kept.append(out)
        self.sums["largest"] = out.abs().max().item()
        self.calls += 1
        self.mean += out.mean()


_SEEN: list[Tensor] = []
_CALLS = 0


def test_hooks_that_only_look_stay_out_and_see_nothing() -> None:
    def look(module: nn.Module, given: object, out: Tensor) -> None:
        global _CALLS
        _CALLS += 1
        _SEEN.append(out)
        own.append(out.detach().numpy())

    model, own, gradients = _net(), [], []
    features = Features(model[1])
    model[0].register_forward_hook(look)
    model[0].register_full_backward_hook(lambda m, given, out: gradients.append(out))
    model(_images())
    kept = (list(features.kept), dict(features.sums), features.calls, features.mean.clone())
    captured = _checked(model)
    assert any("only look" in note and "Features.look of 1" in note for note in captured.notes)
    # Once before, once by the check's own call.
    assert _CALLS == len(_SEEN) == len(own) == features.calls == 2
    assert features.kept[0] is kept[0][0] and len(features.kept) == 2
    assert all(type(value) is Tensor for value in (*features.kept, *_SEEN))
    assert not gradients
    assert not any("item" in str(node.target) for node in captured.graph_module.graph.nodes)


class Reading(nn.Module):
    """Returns what a hook has put aside."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen = _net(), {}
        self.body[1].register_forward_hook(lambda m, given, out: self.seen.update(kept=out))

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        return self.seen["kept"]


def test_a_forward_that_reads_what_hooks_put_aside() -> None:
    model = Reading().eval()
    _checked(model)
    assert type(model.seen["kept"]) is Tensor
    fresh = Reading().eval()
    capture(fresh, _images())
    assert fresh.seen == {}


def test_the_scale_that_a_hook_takes_from_the_input() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.scale = _net(), torch.ones(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x / self.scale)

    model = Scaled().eval()

    def measure(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        module.scale = given[0].std(1, keepdim=True)

    model.register_forward_pre_hook(measure)
    _checked(model)


def _noise(m: nn.Module, given: object, out: Tensor) -> Tensor:
    return out + torch.randn_like(out)


def _raise(m: nn.Module, given: object, out: Tensor) -> Tensor:
    raise ValueError("out of range")


def _move(m: nn.Module, given: object, out: Tensor) -> Tensor:
    return out.to("meta")


def _branch(m: nn.Module, given: object, out: Tensor) -> Tensor:
    return 2 * out if out.max() > 0 else out


@pytest.mark.parametrize(
    "hook, text",
    [
        (_noise, r"different outputs .*difference \d\S* .*forward hook _noise of 0"),
        (_raise, r"forward hook _raise of 0 raises .*ValueError: out of range"),
        (_move, r"forward hook _move of 0 moves values from cpu to meta"),
        (_branch, r"forward hook _branch of 0"),
    ],
)
def test_hooks_that_cannot_be_captured_are_named(hook: Callable[..., Tensor], text: str) -> None:
    model = _net()
    model[0].register_forward_hook(hook)
    with pytest.raises(CaptureError, match=text) as error:
        capture(model, _images())
    assert "\n" not in str(error.value)


def test_a_hook_with_state_is_refused_and_its_state_is_kept() -> None:
    model, calls = _net(), [0]

    def louder(module: nn.Module, given: object, out: Tensor) -> Tensor:
        calls[0] += 1
        return out * calls[0]

    model[0].register_forward_hook(louder)
    with pytest.raises(CaptureError, match=r"different outputs .*louder of 0"):
        capture(model, _images())
    assert calls == [0]


def test_hooks_on_a_wrapper_are_refused() -> None:
    model = nn.DataParallel(_net())
    model.register_forward_hook(_double)
    with pytest.raises(CaptureError, match="on the wrapper DataParallel"):
        capture(model, _images())


def test_global_hooks() -> None:
    seen: list[type] = []

    def look(module: nn.Module, given: object, out: object) -> None:
        seen.append(type(out))

    handle = torch_module.register_module_forward_hook(look)
    try:
        captured = capture(_net(), _images())
        assert captured.difference < 1e-5 and not seen
    finally:
        handle.remove()
    handle = torch_module.register_module_forward_hook(_double)
    try:
        with pytest.raises(CaptureError, match=r"global hook _double.*largest difference \d"):
            capture(_net(), _images())
        assert _double in torch_module._global_forward_hooks.values()
    finally:
        handle.remove()


def test_captures_in_several_threads() -> None:
    gaps: list[float] = []

    def convert(seed: int) -> None:
        model = _net()
        model[1].register_forward_hook(lambda m, given, out: seed * out)
        captured, x = capture(model, _images()), _images(7, 1)
        with torch.no_grad():
            gaps.append(float((captured.graph_module(x)[0] - model(x)).abs().max()))

    threads = [threading.Thread(target=convert, args=(seed,)) for seed in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gaps) == 2 and max(gaps) < 1e-5


def test_global_hooks_come_back_after_nested_blocks() -> None:
    handle = torch_module.register_module_forward_hook(_double)
    try:
        held = dict(torch_module._global_forward_hooks)
        with without_global_hooks():
            with without_global_hooks():
                assert not torch_module._global_forward_hooks
            assert not torch_module._global_forward_hooks
        assert dict(torch_module._global_forward_hooks) == held
    finally:
        handle.remove()
