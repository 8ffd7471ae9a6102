"""What hangs on a model: it is copied or shared, and the model is left exactly as it was."""

import copy
import logging
import random
import threading
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import CaptureError
from convert.graph.capture import capture
from convert.graph.copying import copy_of
from convert.graph.kept_state import KeptState


def _images(count: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


class Holding(nn.Module):
    """A small network that holds whatever it is given."""

    def __init__(self, **held: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


def _checked(model: nn.Module) -> None:
    """Captured, and equal to the model on images that capture hasn't seen."""
    captured, x = capture(model, _images()), _images(7, 1)
    with torch.no_grad():
        torch.testing.assert_close(captured.graph_module(x)[0], model(x), rtol=1e-4, atol=1e-5)


def test_what_does_not_copy_is_shared_or_detached(tmp_path: Path) -> None:
    history = _images() @ nn.Parameter(torch.ones(8))
    with (tmp_path / "log").open("w") as file:
        held = {
            "lock": threading.Lock(),
            "file": {"inner": [file, history]},
            "drawn": (i for i in range(9)),
            "logger": logging.getLogger("held"),
            "box": types.SimpleNamespace(kept=history, lock=threading.RLock()),
        }
        model = Holding(**held)
        model.twin = nn.Linear(8, 16)
        model.twin.weight = model.first.weight
        copied, copies = copy_of(model)
        assert copied.lock is model.lock and copied.file["inner"][0] is file
        assert copied.file["inner"][1] is copied.box.kept is not history
        assert torch.equal(copied.box.kept, history)
        assert copied.first.weight is copied.twin.weight is not model.first.weight
        assert copies[id(model.first.weight)] is copied.first.weight
        assert next(model.drawn) == 0
        _checked(model.eval())
        assert model.file["inner"][1] is model.box.kept is history


def test_a_lock_and_a_file_that_forward_needs(tmp_path: Path) -> None:
    class Writing(Holding):
        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                self.file.write("called\n")
                return super().forward(x)

    with (tmp_path / "log").open("w") as file:
        _checked(Writing(lock=threading.Lock(), file=file).eval())


def test_closures_see_the_copy() -> None:
    model = Holding()
    calls, count = [], 0

    def look(module: nn.Module, given: object, out: Tensor) -> None:
        nonlocal count
        count += 1
        calls.append(model.first.weight)

    def again(module: nn.Module, given: object, out: Tensor) -> None:
        nonlocal count
        count += 10

    model.first.register_forward_hook(look)
    model.last.register_forward_hook(again)
    copied, _ = copy_of(model)
    copied(_images())
    assert not calls and count == 0
    hook = next(iter(copied.first._forward_hooks.values()))
    cells = dict(zip(hook.__code__.co_freevars, hook.__closure__, strict=True))
    assert cells["model"].cell_contents is copied
    assert cells["count"].cell_contents == 11
    assert cells["calls"].cell_contents == [copied.first.weight]


def test_a_copy_that_is_the_model_itself_is_refused() -> None:
    class Single(Holding):
        def __deepcopy__(self, memo: object) -> "Single":
            return self

    with pytest.raises(CaptureError, match="isn't a copy"):
        capture(Single().eval(), _images())


class Keeping(Holding):
    """Keeps features, lists and shapes from call to call."""

    def forward(self, x: Tensor) -> Tensor:
        self.kept = F.relu(self.first(x))
        self.trail.append(self.kept)
        self.last_shape, self.both = x.shape, {"x": x, "kept": [self.kept]}
        return self.last(self.trail[-1])


class Cached(Holding):
    """Makes a grid anew when the shape of the input changes."""

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, "shape", None) != x.shape:
            self.shape, self.grid = x.shape, torch.arange(x.shape[-1]).float()
        return super().forward(x + self.grid)


class CachedFromNone(Holding):
    def forward(self, x: Tensor) -> Tensor:
        if self.shape != x.shape:
            self.shape, self.grid = x.shape, torch.arange(x.shape[-1]).float()
        return super().forward(x + self.grid)


class CachedFromEmpty(Holding):
    def forward(self, x: Tensor) -> Tensor:
        if self.ones.shape[0] != x.shape[0]:
            self.ones = torch.ones(x.shape[0], 1)
        return super().forward(x * self.ones)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Keeping(trail=[]),
        Cached,
        lambda: CachedFromNone(shape=None, grid=None),
        lambda: CachedFromEmpty(ones=torch.empty(0)),
    ],
)
def test_what_forward_keeps_is_no_part_of_the_graph(make: Callable[[], nn.Module]) -> None:
    model = make().eval()
    model(_images(6))  # with gradients: what is kept has a history
    kept = dict(vars(model))
    trail = list(getattr(model, "trail", []))
    captured = capture(model, _images())
    assert all(vars(model)[name] is value for name, value in kept.items())
    assert all(a is b for a, b in zip(getattr(model, "trail", []), trail, strict=True))
    for count in (1, 7):
        x = _images(count, 1)
        with torch.no_grad():
            found = captured.graph_module(x)[0]
            torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-5)


def test_a_model_that_keeps_something_of_its_first_batch_is_refused() -> None:
    class Frozen(nn.Module):
        """Reads its factor off the first batch that it sees, and keeps it."""

        def __init__(self) -> None:
            super().__init__()
            self.line, self.factors = nn.Linear(8, 8), {}

        def forward(self, x: Tensor) -> Tensor:
            factor = self.factors.setdefault(x.shape[1], x.abs().mean().detach())
            return F.relu(self.line(x)) * factor

    with pytest.raises(CaptureError, match=r"largest difference \d"):
        capture(Frozen().eval(), _images())
    used = Frozen().eval()
    used(_images(3, 5))
    _checked(used)


COUNT = 0


class Nasty(nn.Module):
    """Training mode, statistics, weights changed in place, counters, random numbers, settings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.utils.spectral_norm(nn.Linear(8, 16))
        self.norm, self.drop, self.last = nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4)
        self.words = nn.Embedding(4, 8, max_norm=0.5)
        self.calls, self.trail, self.named = 0, [], {"calls": 0}
        self.generator, self.total = torch.Generator().manual_seed(3), torch.zeros(2)
        self.array, self.last.weight.grad = np.zeros(2), torch.ones(4, 16)
        self.first.bias.requires_grad_(False)

    def train(self, mode: bool = True) -> "Nasty":
        self.trail.append(mode)
        with torch.no_grad():  # as adapters do that are merged for inference
            self.last.bias.add_(-1.0 if mode else 1.0)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        global COUNT
        COUNT += 1
        self.calls, self.named["calls"] = self.calls + 1, self.calls
        self.trail.append(x)
        self.array += 1
        torch.rand(2, generator=self.generator), torch.rand(2), random.random()
        np.random.rand()  # noqa: NPY002
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(True)
        x = x + self.words(torch.arange(4).expand(x.shape[0], -1)).sum(1)
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


def test_the_model_is_left_exactly_as_it_was() -> None:
    global COUNT
    model, seen = Nasty(), []

    def look(module: nn.Module, given: object, out: Tensor) -> None:
        seen.append(out)
        model.total += 1

    model.first.register_forward_hook(look)
    COUNT = 5
    state = {key: value.clone() for key, value in model.state_dict().items()}
    held = {module: dict(vars(module)) for module in model.modules()}
    hooks = {m: {k: dict(v) for k, v in vars(m).items() if "hooks" in k and isinstance(v, dict)}
             for m in model.modules()}  # fmt: skip
    leaves = {name: (p, p.requires_grad, p.grad) for name, p in model.named_parameters()}
    trail, named = list(model.trail), dict(model.named)
    before = (
        torch.get_rng_state(), model.generator.get_state(), model.total.clone(),
        torch.tensor(model.array), random.getstate(), str(np.random.get_state()),  # noqa: NPY002
    )  # fmt: skip
    with pytest.warns(UserWarning, match="training mode"):
        capture(model, _images())
    after = (
        torch.get_rng_state(), model.generator.get_state(), model.total,
        torch.tensor(model.array), random.getstate(), str(np.random.get_state()),  # noqa: NPY002
    )  # fmt: skip
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    for module, attributes in held.items():
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[name] is value for name, value in attributes.items())
        for name, value in hooks[module].items():
            assert vars(module)[name] == value
    for name, (parameter, wanted, grad) in leaves.items():
        found = dict(model.named_parameters())[name]
        assert found is parameter and found.requires_grad == wanted and found.grad is grad
    assert model.trail == trail and model.named == named and not seen and COUNT == 5


def test_kept_state_puts_back_what_changed() -> None:
    numbers = torch.arange(3.0)

    class Owner:
        def __init__(self) -> None:
            self.items, self.names, self.chosen = [1, 2], {"a": 1}, {1}
            self.numbers, self.inner = numbers, nn.Linear(2, 2)

    owner = Owner()
    weight = copy.deepcopy(owner.inner.weight)
    kept = KeptState([owner], {})
    owner.items.append(3)
    owner.names.clear()
    owner.chosen.add(2)
    numbers.add_(1)
    owner.inner.weight.data = torch.zeros(5)
    owner.new = owner.inner.extra = 1
    kept.put_back()
    assert (owner.items, owner.names, owner.chosen) == ([1, 2], {"a": 1}, {1})
    assert torch.equal(numbers, torch.arange(3.0)) and torch.equal(owner.inner.weight, weight)
    assert not hasattr(owner, "new") and not hasattr(owner.inner, "extra")
