"""What forward may ask for and still be captured: sizes of the batch, values, arguments, caches."""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convert import CaptureError, InputError, SpikingModel, evaluate, load, refit, to_spiking
from convert.capture.capture import Captured, capture

IMAGES = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A linear layer, and the forward of the test."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.of_test = nn.Linear(8, 8), forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.of_test(self, x)


def _captured(model: nn.Module, images: Tensor = IMAGES, size: int = 16) -> Captured:
    """Captured, and equal to the model on a batch of `size` images."""
    found = capture(model.eval(), images)
    with torch.no_grad():
        outputs = found.graph_module(*found.signature.flatten((images[:size],), {}))
        expected = torch.utils._pytree.tree_leaves(model(images[:size]))
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted)
    return found


def _converted(model: nn.Module, data: Any = IMAGES) -> SpikingModel:
    return to_spiking(model.eval(), data, steps=4, method="binary", progress=False)


# The size of the batch.


def _guarded(net: Net, x: Tensor) -> Tensor:
    if x.shape[0] >= 40:
        x = x.contiguous()
    return torch.relu(net.layer(x))


def test_a_guard_on_the_batch_becomes_a_bound(tmp_path: Path) -> None:
    model = Net(_guarded)
    snn = _converted(model)
    assert snn.signature.bounds is not None and snn.signature.bounds.most == 39
    line = r"at most 39 images at once, .* at test_exporting\.py:\d+: if x\.shape\[0\] >= 40:"
    assert any(re.search(line, note) for note in snn.report.notes)
    assert not any("something else" in note for note in snn.report.notes)
    snn.save(tmp_path / "net.fsnn")
    for network in (snn, load(tmp_path / "net.fsnn")):
        assert network(IMAGES[:39]).shape == (39, 8)
        with pytest.raises(InputError, match=r"batch of 40 images.*at most 39 images at once"):
            network(IMAGES[:40])
    labels = torch.arange(64) % 8
    found = evaluate(snn, model, [(IMAGES, labels), IMAGES[:5]], progress=False, by_site=50)
    assert (found.images, found.labelled_images) == (69, 64)
    exact = (model(IMAGES).argmax(1) == labels).double().mean()
    assert found.original.accuracy == pytest.approx(float(exact))


def test_another_function_above_the_bound_is_told_of() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x)
        return torch.relu(3 * h if x.shape[0] > 20 else h)

    found = _captured(Net(forward))
    assert any("more than 20 images forward computes something else" in n for n in found.notes)


@pytest.mark.parametrize("asserted", ["most", "least"])
def test_an_assertion_on_the_batch_becomes_a_bound(asserted: str) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        assert x.shape[0] <= 256 if asserted == "most" else x.shape[0] >= 4
        return torch.relu(net.layer(x))

    bounds = _captured(Net(forward)).signature.bounds
    assert bounds is not None
    assert (bounds.least, bounds.most) == ((1, 256) if asserted == "most" else (4, None))


def test_a_batch_of_one_that_goes_another_way_is_refused() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = torch.relu(net.layer(x))
        return 100 * h if x.shape[0] == 1 else h

    found = _captured(Net(forward))
    assert found.signature.bounds is not None and found.signature.bounds.least == 2
    with pytest.raises(InputError, match="at least 2 images"):
        found.signature.flatten((IMAGES[:1],), {})


def test_several_guards_give_one_set_of_bounds() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        if x.shape[0] >= 50:
            x = x.contiguous()
        assert x.shape[0] < 32
        assert x.shape[0] % 2 == 0
        return torch.relu(net.layer(x))

    bounds = _captured(Net(forward), IMAGES[:30]).signature.bounds
    assert bounds is not None and (bounds.most, bounds.divisor) == (30, 2)


def _in_groups(net: Net, x: Tensor) -> Tensor:
    return torch.relu(net.layer(x)).view(-1, 8, 8).mean(1)


def test_a_batch_in_groups_is_taken_in_multiples() -> None:
    model = Net(_in_groups)
    batches = [IMAGES[:16], IMAGES[:20], IMAGES[:4]]
    snn = _converted(model, batches)
    assert snn.signature.bounds is not None and snn.signature.bounds.divisor == 8
    assert [len(batch.args[0]) for batch in snn.signature.within(batches)] == [16, 16]
    with pytest.raises(InputError, match="multiple of 8 images"):
        snn(IMAGES[:12])
    found = evaluate(snn, model, [IMAGES], metric="output", progress=False)
    assert found.images == 64
    refit(snn, [IMAGES[:20]], steps=3, method="binary", progress=False)


@pytest.mark.parametrize("apart", [False, True])
def test_images_that_are_mixed_in_groups(apart: bool) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        groups = torch.relu(net.layer(x)).unflatten(0, (-1, 4) if apart else (4, -1))
        return (groups - groups.mean(1 if apart else 0, keepdim=True)).flatten(0, 1)

    model = Net(forward)
    images, labels = IMAGES.repeat(4, 1).double().numpy(), torch.zeros(256, dtype=torch.long)
    snn = _converted(model, [images[:20], images[:24]])
    assert snn.signature.bounds is not None and snn.signature.bounds.divisor == 4
    assert snn.signature.whole is not apart
    found = evaluate(snn, model, [(images, labels)], by_site=5, progress=False)
    assert not [note for note in found.notes if "differ" in note]
    assert found.labelled_images == 256


def test_no_calibration_batch_of_a_size_that_is_taken() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = _guarded(net, x)
        return y - y.mean(0)

    with pytest.raises(InputError, match="a batch of 64 images; the network takes at most 39"):
        _converted(Net(forward))


def test_a_loop_over_the_images_is_refused_with_its_line() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        rows = [torch.relu(net.layer(x[i])) for i in range(x.shape[0])]
        return torch.stack(rows)

    with pytest.raises(CaptureError, match=r"range\(x.shape\[0\]\).*a constant"):
        capture(Net(forward).eval(), IMAGES)


# Values.


def test_checks_and_prints_of_values_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.layer(x)
        if torch.isnan(y).any():
            raise ValueError("NaN")
        assert not torch.isinf(y).any()
        torch._check(bool((y.abs() < 1e9).all().item()))
        torch._assert((y.abs() < 1e9).all(), "large")
        print("mean", y.mean(), f"{y.max():.3f}", float(y.min()))
        logging.getLogger("net").debug("%s", y.max().item())
        if y.abs().max() > 1e6:
            print("large")
        return torch.relu(y)

    found = _captured(Net(forward))
    assert sum("no output depends on it" in note for note in found.notes) == 4
    assert not any(word in capsys.readouterr().out for word in ("Fake", "zuf", "u0"))


def _clamped(net: Net, y: Tensor) -> Tensor:
    return y.clamp(-50, 50) if y.abs().max() > 50 else y


def _compared(net: Net, y: Tensor) -> Tensor:
    top = y.max().item()
    return 2 * y if 90 < top < 100 else y


def _both(net: Net, y: Tensor) -> Tensor:
    high, low = bool((y > 50).any()), bool((y < -50).any())
    return 2 * y if high and low else y


def _caught(net: Net, y: Tensor) -> Tensor:
    try:
        if (y > 50).any():
            raise ValueError
    except ValueError:
        return y.clamp(max=50)
    return y


def _in_place(net: Net, y: Tensor) -> Tensor:
    if (y > 50).any():
        y.clamp_(max=50)
    return y


def _kept(net: Net, y: Tensor) -> Tensor:
    net.large = bool(y.abs().max() > 50)
    return 2 * y if net.large else y


def _same_line(net: Net, y: Tensor) -> Tensor:
    found = [bool((side > 50).any()) for side in (y, -y)]
    return 2 * y if found[0] and not found[1] else y


@pytest.mark.parametrize(
    "branch", [_clamped, _compared, _both, _caught, _in_place, _kept, _same_line]
)
def test_a_branch_on_values_that_changes_the_outputs_is_refused(branch: Any) -> None:
    model = Net(lambda net, x: torch.relu(branch(net, net.layer(x))))
    with pytest.raises(CaptureError, match=r"test_exporting\.py:\d+: "):
        capture(model.eval(), IMAGES)


def test_a_value_that_no_input_changes_is_a_constant() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        h = net.layer(x) if net.mask.all() else x
        return torch.clamp(h, 0, net.bound.item())

    model = Net(forward, bound=nn.Parameter(torch.tensor(0.5)))
    model.register_buffer("mask", torch.ones(3) > 0)
    assert not any("item" in str(n.target) for n in _captured(model).graph_module.graph.nodes)


def test_a_count_of_the_batch_is_no_constant() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        return torch.relu(net.layer(x)) if torch.arange(len(x)).sum() > 8 else net.layer(x)

    with pytest.raises(CaptureError, match="size of the batch"):
        capture(Net(forward).eval(), IMAGES)


class Translator(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        options: dict[str, Any] = {"dim_feedforward": 16, "batch_first": True}
        self.kind = kind
        if kind == "whole":
            self.part: nn.Module = nn.Transformer(8, 2, 1, 1, **options)
        elif kind == "decoder":
            self.part = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, **options), 1)
        else:
            self.part = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, **options), 1)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(6))

    def forward(self, x: Tensor, y: Tensor) -> Any:
        if self.kind == "whole":
            made = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
            return self.part(x, y, tgt_mask=made)
        if self.kind == "decoder":
            return self.part(y, x, tgt_mask=self.mask)
        return self.part(y, mask=self.mask, is_causal=True) + x.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", ["whole", "decoder", "encoder"])
def test_transformers_with_causal_masks(kind: str) -> None:
    torch.manual_seed(0)
    model, x, y = Translator(kind).eval(), torch.randn(8, 5, 8), torch.randn(8, 6, 8)
    detect = torch.nn.modules.transformer._detect_is_causal_mask
    found = capture(model, (x, y))
    assert torch.nn.modules.transformer._detect_is_causal_mask is detect
    with torch.no_grad():
        (output,) = found.graph_module(*found.signature.flatten((x, y), {}))
        torch.testing.assert_close(output, model(x, y), rtol=1e-4, atol=1e-5)


# Caches.


class Detector(nn.Module):
    """Keeps its grid from call to call, as detectors do."""

    shape = None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 1)
        self.save = [1]

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, dict):
            return self.loss(x, *args, **kwargs)
        kept: list[Tensor | None] = []
        for place, layer in enumerate((self.first, self.second)):
            x = F.silu(layer(x))
            kept.append(x if place in self.save else None)
        if self.shape != x.shape:
            self.grid = torch.arange(x.shape[-1]).float().expand(x.shape[0], 1, 1, -1)
            self.shape = x.shape
        return (x.sigmoid() + self.grid).flatten(2), [k for k in kept if k is not None]


@pytest.mark.parametrize("ran", [False, True])
def test_a_grid_that_forward_keeps_is_made_anew(ran: bool) -> None:
    model, images = Detector().eval(), torch.randn(16, 3, 8, 8)
    if ran:
        with torch.no_grad():
            model(images)
    before = dict(vars(model))
    capture(model, images)
    assert vars(model) == before
    assert _captured(model, images, size=7).signature.bounds is None


def test_a_table_as_long_as_the_batch_is_made_anew() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        if not hasattr(net, "table") or net.table.shape[0] != x.shape[0]:
            net.table = torch.ones(x.shape[0], 1)
        return torch.relu(net.layer(x)) * net.table

    model = Net(forward).eval()
    model(IMAGES)
    _captured(model)


# Arguments.


class Arguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)


class Variadic(Arguments):
    def forward(self, x: Tensor, *args: Any, **extra: Any) -> Tensor:
        return torch.relu(self.layer(x)) + extra.get("shift", 0)


class KeywordOnly(Arguments):
    def forward(self, x: Tensor, *, shift: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) + shift


class PositionOnly(Arguments):
    def forward(self, x: Tensor, shift: Tensor, /) -> Tensor:
        return torch.relu(self.layer(x)) + shift


class Features(Arguments):
    def forward(self, features: dict[str, Tensor], return_loss: bool = True) -> Any:
        found = torch.relu(self.layer(features["x"])) + features["shift"]
        return (found, "loss") if return_loss else found


class Listed(Arguments):
    def forward(self, tensors: list[Tensor]) -> Tensor:
        return torch.relu(self.layer(tensors[0])) + tensors[1]


@dataclass
class Pair:
    x: Tensor
    shift: Tensor


class Paired(Arguments):
    def forward(self, pair: Pair) -> Tensor:
        return torch.relu(self.layer(pair.x)) + pair.shift


SHIFT = IMAGES.flip(0)
BATCHES: list[tuple[type[Arguments], Any]] = [
    (Variadic, IMAGES),
    (Variadic, {"x": IMAGES, "shift": SHIFT}),
    (KeywordOnly, {"x": IMAGES, "shift": SHIFT}),
    (PositionOnly, (IMAGES, SHIFT)),
    (Features, {"features": {"x": IMAGES, "shift": SHIFT}, "return_loss": False}),
    (Listed, {"tensors": [IMAGES, SHIFT]}),
    (Paired, {"pair": Pair(IMAGES, SHIFT)}),
]


@pytest.mark.parametrize(("kind", "batch"), BATCHES, ids=lambda v: getattr(v, "__name__", ""))
def test_arguments_in_every_form(kind: type[Arguments], batch: Any, tmp_path: Path) -> None:
    model = kind().eval()
    snn = _converted(model, [batch])
    args, kwargs = snn.signature.split(batch)
    torch.testing.assert_close(snn.original()(*args, **kwargs), model(*args, **kwargs))
    snn.save(tmp_path / "net.fsnn")
    torch.testing.assert_close(load(tmp_path / "net.fsnn")(*args, **kwargs), snn(*args, **kwargs))


@pytest.mark.parametrize(
    ("kind", "batch", "plain"),
    [
        (KeywordOnly, (IMAGES, SHIFT), BATCHES[2][1]),
        (Features, {"x": IMAGES, "shift": SHIFT}, {"features": {"x": IMAGES, "shift": SHIFT}}),
        (Listed, ((IMAGES, SHIFT), 1), {"tensors": [IMAGES, SHIFT]}),
    ],
)
def test_forms_that_can_be_told_are_read(kind: type[Arguments], batch: Any, plain: Any) -> None:
    model = kind().eval()
    snn = _converted(model, [batch])
    args, kwargs = snn.signature.split(batch)
    found, exact = snn.original()(*args, **kwargs), model(**plain)
    torch.testing.assert_close(*(pytree.tree_leaves(y)[0] for y in (found, exact)))


@pytest.mark.parametrize(
    ("kind", "batch", "advice"),
    [
        (PositionOnly, {"x": IMAGES, "shift": SHIFT}, r"tuple: \(\(x, shift\), label\)"),
    ],
)
def test_arguments_that_dont_fit_show_the_form_that_does(
    kind: type[Arguments], batch: Any, advice: str
) -> None:
    with pytest.raises(CaptureError, match=advice):
        capture(kind().eval(), batch)


def test_a_flag_is_held_to_what_was_captured() -> None:
    found = capture(Features().eval(), BATCHES[4][1])
    with pytest.raises(InputError, match="False at conversion is True"):
        found.signature.flatten((), BATCHES[4][1] | {"return_loss": True})


# Outputs.


@dataclass
class Result:
    logits: Tensor
    hidden: Tensor | None = None


class Named(OrderedDict[str, Tensor]):
    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class Box:
    def __init__(self, held: Tensor) -> None:
        self.held = held


@pytest.mark.parametrize("kind", [Result, Named])
def test_outputs_of_a_class_of_ones_own(kind: Any, tmp_path: Path) -> None:
    model = Net(lambda net, x: kind(logits=torch.relu(net.layer(x))))
    snn = _converted(model)
    found = snn(IMAGES)
    assert type(found) is kind and found.logits.shape == (64, 8)
    snn.save(tmp_path / "net.fsnn")
    torch.testing.assert_close(load(tmp_path / "net.fsnn")(IMAGES).logits, found.logits)
    assert evaluate(snn, model, [IMAGES], metric="output", progress=False).images == 64


@pytest.mark.parametrize("made", [Box, lambda y: (part for part in [y])])
def test_outputs_that_torch_cant_see_into_are_refused(made: Any) -> None:
    with pytest.raises(CaptureError, match=r"forward returns a (Box|generator)"):
        capture(Net(lambda net, x: made(torch.relu(net.layer(x)))).eval(), IMAGES)


# Operations.


def test_a_convolution_with_a_group_for_each_image() -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        weight = (net.weight * x.mean((2, 3))[:, None, :, None, None]).reshape(n * 4, c, 3, 3)
        return torch.relu(F.conv2d(x.reshape(1, -1, h, w), weight, groups=n)).view(n, 4, 4, 4)

    model = Net(forward, weight=nn.Parameter(torch.randn(4, 3, 3, 3)))
    _captured(model, torch.randn(16, 3, 6, 6))


def test_a_bag_of_embeddings() -> None:
    class Bag(Arguments):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 8, mode="sum")

        def forward(self, tokens: Tensor) -> Tensor:
            return torch.relu(self.layer(self.bag(tokens)))

    _captured(Bag(), torch.arange(48).view(16, 3) % 10)


def test_branches_inside_the_graph_and_sizes_of_values_are_named() -> None:
    def cond(net: Net, x: Tensor) -> Tensor:
        found = torch.cond(x.sum() > 0, torch.relu, torch.neg, (net.layer(x),))
        assert isinstance(found, Tensor)
        return found

    with pytest.raises(CaptureError, match=r"torch's cond at test_exporting.py:\d+: "):
        capture(Net(cond).eval(), IMAGES)
    model = Net(lambda net, x: torch.relu(net.layer(x[x[:, 0] > 0])))
    with pytest.raises(CaptureError, match="size depends on values"):
        capture(model.eval(), IMAGES)
