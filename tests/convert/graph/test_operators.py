"""The table of operations, and operations of a user's own in it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convert import audit, load, register_decomposition, register_operator, to_spiking
from convert.errors import InputError, StorageError
from convert.graph import operators
from convert.graph.operators import Kind, kind_of, named


@torch.library.custom_op("fewspikes_test::differences", mutates_args=())
def differences(x: Tensor) -> Tensor:
    """Every value minus the one before it, in the last axis."""
    return x - x.roll(1, -1)


@differences.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fewspikes_test::bump", mutates_args=())
def bump(x: Tensor) -> Tensor:
    """exp(-x^2)."""
    return torch.exp(-x * x)


@bump.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Between(nn.Module):
    """An operation between two linear layers, and a ReLU."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.operation(self.first(x))))


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The table is the same after every test."""
    before = dict(operators._TABLE)
    yield
    assert before == operators._TABLE


def _x() -> Tensor:
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def test_a_linear_operation_becomes_synaptic() -> None:
    x, model = _x(), Between(lambda x: differences(x)).eval()
    unknown = to_spiking(model, x, steps=3, method="binary")
    assert [r["op"] for r in unknown.report.to_dict()["remaining"]] == ["differences"]
    registered = register_operator(differences, "sum")
    try:
        snn = to_spiking(model, x, steps=3, method="binary")
        assert snn.report.to_dict()["remaining"] == []
        assert [o.kind for o in snn.report.operations if o.op == "differences"] == ["synaptic"]
        # The audit believes nobody.
        assert audit(snn, x).nonlinear == {"differences": 1}
    finally:
        registered.remove()
    again = to_spiking(model, x, steps=3, method="binary")
    assert [r["op"] for r in again.report.to_dict()["remaining"]] == ["differences"]
    registered.remove()  # nothing is left to be removed


def test_a_pointwise_operation_becomes_a_site() -> None:
    x, model = _x(), Between(lambda x: bump(x)).eval()
    registered = register_operator("fewspikes_test::bump", Kind.POINTWISE)
    try:
        snn = to_spiking(model, x, steps=6, method="binary")
        assert snn.report.to_dict()["remaining"] == []
        assert [site.function for site in snn.report.sites] == ["relu(bump(x))"]
        with torch.no_grad():
            torch.testing.assert_close(snn.original()(x), model(x))
    finally:
        registered.remove()


def test_saving_needs_leave(tmp_path) -> None:
    x, model = _x(), Between(lambda x: differences(x)).eval()
    for saved in (False, True):
        registered = register_operator(differences, "sum", saved=saved)
        try:
            snn = to_spiking(model, x, steps=3, method="binary")
            if saved:
                snn.save(tmp_path / "net.fsnn")
                assert torch.equal(load(tmp_path / "net.fsnn")(x), snn(x))
            else:
                with pytest.raises(StorageError, match="differences"):
                    snn.save(tmp_path / "net.fsnn")
        finally:
            registered.remove()
    with pytest.raises(StorageError, match="differences"):
        load(tmp_path / "net.fsnn")


def test_a_decomposition_is_looked_into() -> None:
    x, model = _x(), Between(lambda x: bump(x)).eval()
    registered = register_decomposition(bump, lambda x: torch.exp(-x * x))
    try:
        snn = to_spiking(model, x, steps=3, method="binary")
        assert [site.function for site in snn.report.sites] == ["relu(exp((-x * x)))"]
        with pytest.raises(InputError, match=r"bump.*known already"):
            register_decomposition(bump, torch.exp)
    finally:
        registered.remove()
    snn = to_spiking(model, x, steps=3, method="binary")
    assert [r["op"] for r in snn.report.to_dict()["remaining"]] == ["bump"]


@pytest.mark.parametrize(
    ("operation", "kind", "found"),
    [
        (torch.ops.aten.conv2d.default, "sum", r"conv2d is known already"),
        ("aten::relu", "pointwise", r"tags it as pointwise"),
        ("fewspikes_test::nothing", "sum", r"no library defines .*nothing"),
        ("differences", "sum", r"no library defines .*'differences'"),
        (torch.relu, "pointwise", r"an operation is expected, found <built-in"),
        (differences, "linear", r"'sum'.*found 'linear'"),
        (differences, "norm", r"'sum'.*found 'norm'"),
        (torch.ops.aten.add_.Tensor, "sum", r"add_ .*pointwise"),
        (torch.ops.aten.index_put_.default, "sum", r"index_put_ writes to an argument"),
    ],
)
def test_what_cannot_be_registered_is_refused(operation, kind: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        register_operator(operation, kind)


def test_decompositions_that_exist_or_do_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"prelu.*known already"):
        register_decomposition(torch.ops.aten.prelu.default, torch.prelu)
    with pytest.raises(InputError, match="a decomposition is a function, found 'exp'"):
        register_decomposition(bump, "exp")


def test_every_row_names_an_operation_and_rows_are_sorted() -> None:
    for name in operators._TABLE:
        assert name == "getitem" or hasattr(torch.ops.aten, name), name
    for rows in (operators._LAYOUTS, operators._SUMS, operators._NORMS, operators._MAXIMA):
        names = [row.name for row in rows]
        assert names == sorted(names)


def test_an_operation_of_another_library_is_not_taken_for_one_of_atens() -> None:
    library = torch.library.Library("fewspikes_test2", "DEF")
    try:
        library.define("linear(Tensor x) -> Tensor")
        graph = torch.fx.Graph()
        node = graph.call_function(torch.ops.fewspikes_test2.linear.default)
        assert kind_of(node) is None and named("linear") is not None
    finally:
        library._destroy()


_X = torch.arange(2.0 * 4 * 6 * 6).reshape(2, 4, 6, 6)
_FRESH = {
    "_adaptive_avg_pool2d": (_X, [6, 6]),
    "_native_batch_norm_legit_no_training": (
        _X, None, None, torch.zeros(4), torch.ones(4), 0.1, 1e-5
    ),
    "_to_copy": (_X,),
    "_unsafe_index": (_X, [torch.arange(2)]),
    "adaptive_avg_pool2d": (_X, [6, 6]),
    "adaptive_max_pool2d": (_X, [6, 6]),
    "add": (_X, 0),
    "addmm": (_X[0, 0], _X[0, 0], _X[0, 1]),
    "amax": (_X, [], True),
    "amin": (_X, [], True),
    "avg_pool2d": (_X, [1, 1]),
    "avg_pool1d": (_X[0], [1]),
    "bmm": (_X[0], _X[0]),
    "cat": ([_X],),
    "clone": (_X,),
    "conv2d": (_X, torch.eye(4).reshape(4, 4, 1, 1)),
    "conv1d": (_X[0], torch.eye(6).reshape(6, 6, 1)),
    "div": (_X, 1),
    "embedding": (_X[0, 0], torch.arange(6)),
    "flip": (_X, []),
    "gather": (_X, 0, torch.zeros(2, 4, 6, 6, dtype=torch.int64)),
    "group_norm": (_X, 2),
    "index": (_X, [torch.arange(2)]),
    "index_select": (_X, 0, torch.arange(2)),
    "layer_norm": (_X, [6]),
    "linear": (_X, torch.eye(6)),
    "matmul": (_X, torch.eye(6)),
    "max_pool1d": (_X[0], [1]),
    "max_pool2d": (_X, [1, 1]),
    "mean": (_X[:, :1], [1], True),
    "mm": (_X[0, 0], torch.eye(6)),
    "mul": (_X, 1),
    "mv": (torch.eye(6), _X[0, 0, 0]),
    "neg": (_X,),
    "roll": (_X, [0]),
    "rsub": (_X, 0),
    "sub": (_X, 0),
    "sum": (_X[:, :1], [1], True),
    "zeros_like": (_X,),
}  # fmt: skip


@pytest.mark.parametrize("name", _FRESH)
def test_fresh_memory_is_fresh(name: str) -> None:
    arguments = _FRESH[name]
    row = named(name)
    assert row is not None and row.fresh
    result = getattr(torch.ops.aten, name)(*arguments)
    result = result[0] if isinstance(result, tuple) else result
    given = [a for a in torch.utils._pytree.tree_leaves(arguments) if isinstance(a, Tensor)]
    taken = {tensor.untyped_storage().data_ptr() for tensor in given}
    assert result.untyped_storage().data_ptr() not in taken


def test_what_may_return_its_input_is_not_fresh() -> None:
    names = (
        "reshape contiguous dropout pad pixel_shuffle channel_shuffle _unsafe_view unsafe_split "
        "expand view permute alias detach getitem slice batch_norm"
    )
    assert not any(row.fresh for name in names.split() if (row := named(name)) is not None)
