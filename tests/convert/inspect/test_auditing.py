"""The audit proves the report, on networks of every kind, and finds what is hidden from it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from convert import InputError, SpikingModel, audit, evaluate, load, refit, to_spiking


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        return self.head(F.gelu(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


@pytest.fixture
def attention() -> tuple[SpikingModel, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(16, 5, 6)
    return to_spiking(Attention().eval(), x, steps=8, method="binary"), x


def test_lists_what_ran_with_counts_and_places(attention: tuple[SpikingModel, Tensor]) -> None:
    snn, x = attention
    found = audit(snn, x[:3])
    assert found.agrees and not found.differences
    assert found.nonlinear == {"native_layer_norm": 1, "amax": 1}
    rows = found.to_dict()
    assert rows["nonlinear"] == [
        {"aten": "native_layer_norm", "op": "layer_norm", "count": 1, "where": ["norm"]},
        {"aten": "amax", "op": "amax", "count": 1, "where": ["attention"]},
    ]
    assert sum(row["count"] for row in rows["products"]) == 3
    assert rows["neurons"] == len(snn.sites) == 3
    assert "native_layer_norm" in str(found) and "agrees" in str(found)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in snn.modules())


def test_a_function_in_a_neurons_place_is_found(attention: tuple[SpikingModel, Tensor]) -> None:
    snn, x = attention
    parent, _, name = snn.names["gelu"].rpartition(".")
    setattr(snn.network.get_submodule(parent), name, nn.Tanh())
    found = audit(snn, x)
    assert found.nonlinear["tanh"] == 1 and found.neurons == 2
    assert len(found.differences) == 1 and "gelu" in found.differences[0]


def test_exact_functions_inside_a_block_are_found(attention: tuple[SpikingModel, Tensor]) -> None:
    snn, x = attention
    plain = audit(snn, x)
    with snn.spiking_only([name for name in snn.sites if name != "gelu"]):
        found = audit(snn, x)
    assert found.nonlinear == plain.nonlinear | {"gelu": 1} and found.neurons == 2
    assert len(found.differences) == 1 and "gelu" in found.differences[0]
    with snn.spiking_only([]):
        found = audit(snn, x)
    assert found.nonlinear == plain.nonlinear | {"gelu": 1, "exp": 1, "reciprocal": 1}
    assert found.neurons == 0 and len(found.differences) == 3
    assert audit(snn, x) == plain


def test_neurons_inside_a_block_hide_nothing(attention: tuple[SpikingModel, Tensor]) -> None:
    _, x = attention
    torch.manual_seed(0)
    model = Attention().eval()
    snn = to_spiking(model, x, steps=(4, 8), method="binary", sequential=False, progress=False)
    plain = audit(snn, x)
    assert plain.agrees and plain.neurons == 3
    with snn.with_steps(8):
        assert audit(snn, x) == plain
        with snn.readout(2):
            assert audit(snn, x) == plain


def test_a_report_that_hides_or_invents_is_found(attention: tuple[SpikingModel, Tensor]) -> None:
    snn, x = attention
    listed = snn.report.operations
    snn.report.operations = [o for o in listed if o.op != "amax"]
    assert ["amax" in d for d in audit(snn, x).differences] == [True]
    relabelled = [replace(o, kind="synaptic") if o.kind == "product" else o for o in listed]
    snn.report.operations = relabelled
    assert len(audit(snn, x).differences) >= 2
    extra = next(o for o in listed if o.op == "amax")
    snn.report.operations = [*listed, extra]
    assert not audit(snn, x).agrees


def test_what_runs_beside_the_graph_is_found(attention: tuple[SpikingModel, Tensor]) -> None:
    snn, x = attention
    plain = snn.network.forward
    snn.network.forward = lambda *leaves: tuple(torch.tanh(y) for y in plain(*leaves))
    found = audit(snn, x)
    assert not found.agrees and "tanh" in found.differences[0]


class Through(nn.Module):
    """A ReLU, so that there is a site, and one operation behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.line, self.function = nn.Linear(6, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(torch.relu(self.line(x)))


_FUNCTIONS: list[tuple[Callable[[Tensor], Tensor], set[str]]] = [
    (lambda x: x.amax(-1), {"amax"}),
    (lambda x: x.sort(-1)[0], {"sort"}),
    (lambda x: x.cummax(-1)[0], {"cummax"}),
    (lambda x: F.max_pool1d(x[:, None], 2), {"max_pool1d", "max_pool2d_with_indices"}),
    (lambda x: F.adaptive_avg_pool1d(x[:, None], 3), set()),
    (lambda x: x.roll(1, -1) + x.flip(-1) - 3 * x.cumsum(-1), set()),
    (lambda x: F.pad(x, (1, 1)).unfold(-1, 3, 2), set()),
    (lambda x: torch.where(torch.arange(6) > 2, x, -x), set()),
    (lambda x: x.masked_fill(torch.arange(6) > 2, 0.5), set()),
    (lambda x: x[:, [3, 1, 1]], set()),
    (lambda x: x @ torch.ones(6, 2), set()),
    (lambda x: x.gather(1, x.argsort(-1)), {"gather", "argsort"}),
    (lambda x: torch.zeros_like(x) + torch.ones_like(x[:, :1]) + x, set()),
]


@pytest.mark.parametrize(("function", "left"), _FUNCTIONS)
def test_every_kind_of_operation(function: Callable[[Tensor], Tensor], left: set[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    snn = to_spiking(Through(function).eval(), x, steps=4, method="binary")
    found = audit(snn, x[:2])
    assert found.agrees, found.differences
    assert bool(found.nonlinear) == bool(left)
    ops = {row["op"] for row in snn.report.to_dict()["remaining"]}
    assert bool(ops) == bool(left)


def test_a_whole_vision_transformer() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    x = torch.randn(4, 3, 16, 16)
    snn = to_spiking(model, x, steps=8, method="binary")
    found = audit(snn, x[:1])
    assert found.agrees, found.differences
    assert {r["op"] for r in snn.report.to_dict()["remaining"]} == {"layer_norm", "amax"}


class Two(nn.Module):
    """An operation of two signals between linear layers."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.operation(self.a(x), self.b(x))))


@pytest.mark.parametrize(
    ("operation", "remaining", "products"),
    [
        (lambda a, b: (a > b).to(a.dtype), ["gt"], []),
        (lambda a, b: (a > b) * a, ["gt"], ["mul"]),
        (lambda a, b: ((a > 0) + (b > 0)).float(), ["gt", "gt", "add"], []),
        (lambda a, b: ((a > b).int() * 3 + 1) / 2, ["gt"], []),
        (lambda a, b: torch.bucketize(a, torch.linspace(-1, 1, 4)).to(a.dtype), ["bucketize"], []),
        (lambda a, b: a + F.silu(b - b), ["sigmoid"], ["mul"]),
        (lambda a, b: torch.einsum("bi,bi->bi", a, a), [], []),
        (lambda a, b: a + torch.einsum("bi,bi->b", b, b)[:, None], [], ["bmm"]),
        (lambda a, b: torch.clamp(a, b - 1, b + 1), [], []),
        (lambda a, b: torch.clamp(a, torch.arange(8) / 9, torch.tensor(2.0)), [], []),
        (lambda a, b: torch.lerp(a, b, torch.sigmoid(b)), [], ["mul"]),
        (lambda a, b: a.masked_fill(b > 0, 0.5), ["gt", "where"], []),
        (lambda a, b: a + a.argmax(1, keepdim=True).float(), ["argmax"], []),
        (lambda a, b: (a > b).cumsum(1).float(), ["gt"], []),
    ],
)
def test_agrees_on_masks_and_products(
    operation: Callable[[Tensor, Tensor], Tensor], remaining: list[str], products: list[str]
) -> None:
    x = torch.randn(32, 6)
    snn = to_spiking(Two(operation).eval(), x, steps=4, method="binary", progress=False)
    found = audit(snn, x)
    assert found.agrees, found.differences
    told = {kind: [o.op for o in snn.report.operations if o.kind == kind] for kind in
            ("remaining", "product")}  # fmt: skip
    assert told == {"remaining": remaining, "product": products}


_BAG = "_embedding_bag_forward_only"


class Given(nn.Module):
    """An operation of whole numbers, and a linear layer."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.operation = torch.randn(5, 6), nn.Linear(6, 3), operation

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.head(self.operation(x, self.table)))


@pytest.mark.parametrize(
    ("operation", "remaining"),
    [
        (lambda x, table: x.float() / 58, []),
        (lambda x, table: (x / 255 - 0.5) / 0.2, []),
        (lambda x, table: F.embedding_bag(x % 5, table, mode="sum"), []),
        (lambda x, table: F.embedding_bag(x % 5, table, mode="max"), [_BAG]),
        (lambda x, table: x.float().sqrt(), []),
    ],
)  # fmt: skip
def test_agrees_on_whole_numbers(
    operation: Callable[[Tensor, Tensor], Tensor], remaining: list[str]
) -> None:
    x = torch.randint(0, 200, (24, 6))
    snn = to_spiking(Given(operation).eval(), [x], steps=4, method="binary", progress=False)
    found = audit(snn, x)
    assert found.agrees, found.differences
    assert [o.op for o in snn.report.operations if o.kind == "remaining"] == remaining


class Gated(nn.Module):
    """Two inputs, and a loss where labels are given."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)

    def forward(
        self, x: Tensor, gate: Tensor, labels: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.line(x)) * gate
        return y if labels is None else (F.cross_entropy(y, labels), y)


def test_takes_inputs_as_the_model_and_the_loader_give_them() -> None:
    torch.manual_seed(0)
    x, gate, labels = torch.randn(8, 6), torch.rand(8, 6), torch.arange(8) % 6
    batch = {"x": x, "gate": gate, "labels": labels}
    snn = to_spiking(Gated().eval(), [batch], steps=4, method="binary", progress=False)
    assert snn.signature.names == ("x", "gate")
    plain = audit(snn, x, gate)
    assert plain.agrees and plain.neurons == 1
    assert audit(snn, x, gate=gate) == audit(snn, x=x, gate=gate) == plain
    assert audit(snn, **batch) == audit(snn, batch) == audit(snn, (x, gate, labels)) == plain
    assert audit(snn, example=((x.double(), gate.numpy()), labels)) == plain
    for wrong in ((x,), (), (x, gate, gate)):
        with pytest.raises(InputError):
            audit(snn, *wrong)
    with pytest.raises(InputError, match=r"audit takes a converted network first.*Gated"):
        audit(Gated(), x)  # type: ignore[arg-type]


def test_labels_in_the_batch_are_no_inputs_and_make_no_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, gate = Gated().eval(), torch.randn(32, 6), torch.rand(32, 6)
    with torch.no_grad():
        labels = model(x, gate).argmax(1)
    batch = {"gate": gate, "x": x, "labels": labels}
    snn = to_spiking(model, [batch], steps=4, method="binary", progress=False)
    assert any("'labels'" in note for note in snn.report.notes)
    snn.save(tmp_path / "gated.fsnn")
    for network in (snn, load(tmp_path / "gated.fsnn")):
        for data in ([batch], [(x, gate, labels)], [((x, gate), labels)]):
            result = evaluate(network, model, data, at=[], by_site=0, progress=False)
            assert result.original.accuracy == 1 and result.labelled_images == 32
        again = refit(network, [batch], method="binary", progress=False)
        assert again.report.input_ranges == snn.report.input_ranges
        with torch.no_grad():
            assert torch.equal(again(x, gate), snn(gate=gate, x=x))
