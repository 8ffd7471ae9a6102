"""What operations are: enums that equal their plain words, in the report and in a file."""

import json

import pytest
import torch
from torch import Tensor, nn

from convert import StorageError, to_spiking
from convert.graph.roles import Operation, Role, Signal
from convert.storage.record_json import read_report, write_report


class Gate(nn.Module):
    """A spiking product, a row maximum, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.a(x)) * torch.relu(self.b(x))
        return self.b(gate - gate.amax(1, keepdim=True))


def _report():
    torch.manual_seed(0)
    snn = to_spiking(Gate().eval(), torch.randn(16, 4), steps=3, method="binary")
    return snn.report, list(snn.network.graph.nodes)


def test_members_equal_words_everywhere() -> None:
    report, nodes = _report()
    kinds = {operation.kind for operation in report.operations}
    assert kinds == {"spiking", "synaptic", "product", "remaining"} and Role.PRODUCT in kinds
    assert all(type(o.kind) is Role for o in report.operations)
    assert all(type(i) is Signal for o in report.operations for i in o.inputs)
    (product,) = report.to_dict()["products"]
    assert product["operands"] == ["spikes", "spikes"]
    assert all(type(word) is str for word in product["operands"])
    place = {node: index for index, node in enumerate(nodes)}
    text = json.loads(json.dumps(write_report(report, place)))
    assert [o["kind"] for o in text["operations"]] == [str(o.kind) for o in report.operations]
    again = read_report(text, nodes)
    assert again is not None and again.operations == report.operations
    assert all(type(o.kind) is Role for o in again.operations)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("kind", "nonsense", "'nonsense' is not a valid Role"),
        ("kind", 3, "3 is not a valid Role"),
        ("inputs", ["spikes", "digital"], "'digital' is not a valid Signal"),
        ("inputs", [["spikes"]], "not a valid Signal"),
    ],
)
def test_unknown_words_in_a_file_are_refused(field: str, value: object, found: str) -> None:
    report, nodes = _report()
    text = write_report(report, {node: index for index, node in enumerate(nodes)})
    text["operations"][1][field] = value
    with pytest.raises(StorageError, match=found):
        read_report(text, nodes)


def test_plain_words_become_members() -> None:
    node = torch.fx.Graph().placeholder("x")
    made = Operation("product", "mul", ("spikes", "analog"), "here", 1, node)  # type: ignore[arg-type]
    assert made.kind is Role.PRODUCT and made.inputs == (Signal.SPIKES, Signal.ANALOG)
    assert made.signal is Signal.ANALOG
