"""What isn't an eager module: one line that says what to give instead."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import Tensor, nn

from convert import ConversionError, InputError, to_spiking
from convert.graph.capture import capture

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def _images(count: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def _said(model: object, batch: object = None) -> str:
    with pytest.raises(ConversionError) as error:
        capture(model, _images() if batch is None else batch)  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def _checked(model: nn.Module) -> None:
    captured, x = capture(model, _images()), _images(7, 1)
    with torch.no_grad():
        torch.testing.assert_close(captured.graph_module(x)[0], model(x), rtol=1e-4, atol=1e-5)


def _loaded() -> nn.Module:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(_net()), file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(_net()),
        lambda: torch.jit.trace(_net(), _images()),
        lambda: torch.jit.freeze(torch.jit.script(_net())),
        _loaded,
    ],
)
def test_torchscript_is_refused(make: Callable[[], nn.Module]) -> None:
    assert "the model is TorchScript" in _said(make()) and "eager module" in _said(make())


def test_a_scripted_part_is_named() -> None:
    part = nn.Sequential(nn.Linear(8, 8), torch.jit.script(_net()))
    assert "part 0.1 is TorchScript" in _said(nn.Sequential(part, nn.ReLU()))


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    return 2 * torch.relu(x)


class Calling(nn.Module):
    """Calls a function on what its layer gives."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.function = nn.Linear(8, 8), function

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.function(self.line(x)))


def test_a_scripted_function_inside_forward_converts() -> None:
    _checked(Calling(lambda x: _scripted(x) - 1).eval())


BATCH = {0: torch.export.Dim("batch", min=1)}


def _program(model: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(model, (_images(),), dynamic_shapes=(BATCH,))


def test_exported_programs() -> None:
    program = _program(_net())
    assert "ExportedProgram; give its .module()" in _said(program)
    model = program.module()
    _checked(model)
    with pytest.raises(NotImplementedError):
        model.eval()  # it still has but one mode
    _checked(program.run_decompositions().module())
    fixed = torch.export.export(_net(), (_images(2),)).module()
    assert "batch that may vary" in _said(fixed)
    training = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.ReLU()).train()
    assert "export it in eval mode" in _said(_program(training).module())


def test_traced_by_fx() -> None:
    _checked(torch.fx.symbolic_trace(_net()))


def test_a_network_that_is_converted_already() -> None:
    snn = to_spiking(_net(), _images(), steps=3, method="binary")
    for model in (snn, snn.original(), torch.compile(snn, backend="eager")):
        assert "the model is converted already" in _said(model) and "refit" in _said(model)
    assert "part 1 is converted already (SpikingModel)" in _said(nn.Sequential(nn.ReLU(), snn))
    assert "converted already" in _said(snn.network)


def test_whole_numbered_layers_are_named() -> None:
    dynamic = quantization.quantize_dynamic(_net(), {nn.Linear}, dtype=torch.qint8)
    assert "part 0 is quantised" in _said(dynamic) and "dynamic" in _said(dynamic)


def test_observers_of_a_quantisation_to_come_only_look() -> None:
    model = nn.Sequential(quantization.QuantStub(), *_net(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    observed = quantization.prepare(model)
    observed(_images())
    before = copy.deepcopy(observed.state_dict())
    capture(observed, 100 * _images())
    for key, value in observed.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


class Wrapper:
    """As a pipeline or a trainer holds its model."""

    def __init__(self) -> None:
        self.model = _net()


class Detector(nn.Module):
    """A module whose call does much else, and whose `train` begins to train."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _net()

    def __call__(self, source: Tensor) -> list[Tensor]:
        return [self.model(source)]

    def train(self, trainer: object = None) -> "Detector":
        raise AssertionError("training was begun")


class Predicting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = _net()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.model(x).numpy())


class Counting(Predicting):
    def forward(self, x: Tensor) -> int:
        return int(self.model(x).argmax())


@pytest.mark.parametrize("make", [Wrapper, Detector, Predicting, Counting])
def test_wrappers_point_to_their_model(make: Callable[[], object]) -> None:
    assert ".model (Sequential)" in _said(make())


def test_a_network_that_calls_its_part_model_converts() -> None:
    class Plain(Predicting):
        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    _checked(Plain().eval())


def test_other_things_that_are_no_model() -> None:
    assert "class ReLU; give an instance" in _said(nn.ReLU)
    assert "load_state_dict" in _said(_net().state_dict())
    assert "type str; give a torch.nn.Module" in _said("model.pt")
    assert "lazy (LazyLinear) and has no weight yet" in _said(nn.Sequential(nn.LazyLinear(4)))
    assert "part 0 has no values in weight" in _said(_net().to("meta"))


def test_packed_sequences_are_named() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 8), torch.randn(3, 8)])
    for batch in (packed, (packed, torch.zeros(2)), {"x": packed}):
        with pytest.raises(InputError, match="PackedSequence; give padded sequences"):
            capture(nn.GRU(8, 8).eval(), batch)


@torch.library.custom_op("fewspikes_kinds::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return 2 * x


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fewspikes_kinds::bare", mutates_args=())
def bare(x: Tensor) -> Tensor:
    return 2 * x


_library = torch.library.Library("fewspikes_kinds", "FRAGMENT")
_library.define("plain(Tensor x) -> Tensor")
_library.impl("plain", lambda x: 3 * x, "CPU")


def test_custom_operators() -> None:
    _checked(Calling(torch.ops.fewspikes_kinds.twice).eval())
    for name in ("bare", "plain"):
        said = _said(Calling(getattr(torch.ops.fewspikes_kinds, name)).eval())
        assert f'torch.library.register_fake("fewspikes_kinds::{name}")' in said
