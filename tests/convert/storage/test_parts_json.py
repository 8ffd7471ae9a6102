"""Files of converted parts: what is in them, and the model that they belong to."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models_with_parts import Asking, Recurrent, converted
from torch import Tensor, nn

from convert import InputError, StorageError, load, refit, to_spiking
from convert.parts.model import SpikingParts
from convert.storage import container, file

DATA = [torch.randn(8, 3), torch.randn(8, 3)]


@pytest.fixture(scope="module")
def model() -> Asking:
    torch.manual_seed(0)
    return Asking().eval()


@pytest.fixture(scope="module")
def snn(model: Asking) -> SpikingParts:
    return converted(model, DATA, ["stem", "blocks.0"], steps=[6, 4])


@pytest.fixture(scope="module")
def saved(snn: SpikingParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts") / "parts.fsnn"
    snn.save(path, metadata={"made": [1, 2]})
    return path


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def test_parts_go_back_into_the_model(saved: Path, snn: SpikingParts, model: Asking) -> None:
    before = copy.deepcopy(model.state_dict())
    back = load(saved, model=model)
    assert isinstance(back, SpikingParts) and torch.equal(back(DATA[0]), snn(DATA[0]))
    assert torch.equal(back.predict(DATA[0]), snn.predict(DATA[0]))
    assert str(back.report) == str(snn.report) and back.metadata == {"made": [1, 2]}
    assert back.report.to_dict() == snn.report.to_dict()
    with back.with_steps(4), snn.with_steps(4):
        assert torch.equal(back(DATA[0]), snn(DATA[0]))
    assert type(model.stem) is nn.Sequential
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_parts_alone(saved: Path, snn: SpikingParts, model: Asking, tmp_path: Path) -> None:
    back = load(saved)
    assert isinstance(back, SpikingParts) and list(back.parts) == list(snn.parts)
    assert torch.equal(back.parts["stem"](DATA[0]), snn.parts["stem"](DATA[0]))
    with pytest.raises(InputError, match=r"parts of a Asking, not the model .* load\(path, model="):
        back(DATA[0])
    finer = refit(back, steps=5, progress=False)
    finer.save(tmp_path / "again.fsnn")
    again = load(tmp_path / "again.fsnn", model=model)
    assert again.steps == 5 and again(DATA[0]).shape == (8, 4)


def test_a_batch_of_one_stays_one(tmp_path: Path) -> None:
    class OneByOne(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.head(self.cell(row)) for row in x])

    model = OneByOne().eval()
    snn = converted(model, DATA, ["cell"])
    snn.save(tmp_path / "parts.fsnn")
    back = load(tmp_path / "parts.fsnn", model=model)
    assert torch.equal(back(DATA[0]), snn(DATA[0]))


def _other_weight(model: nn.Module) -> None:
    model.head.bias.data += 1  # type: ignore[operator, union-attr]


def _other_shape(model: nn.Module) -> None:
    model.head = nn.Linear(8, 5)


def _no_part(model: nn.Module) -> None:
    del model.stem


def _more(model: nn.Module) -> None:
    model.extra = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_other_weight, "head.bias of the model has other values .* load its weights first"),
        (_other_shape, r"head.weight is \[5, 8\] in the model and was \[4, 8\]"),
        (_no_part, "no module stem, where a part belongs"),
        (_more, "extra.weight isn't in the one converted"),
    ],
)
def test_another_model_is_refused(
    saved: Path, model: Asking, change: Callable[[nn.Module], None], match: str
) -> None:
    other = copy.deepcopy(model)
    change(other)
    with pytest.raises(InputError, match=match):
        load(saved, model=other)
    with pytest.raises(InputError, match="parts are those of a Asking, the model is a Linear"):
        load(saved, model=nn.Linear(3, 4))


def test_a_whole_network_needs_no_model(tmp_path: Path, model: Asking) -> None:
    whole = to_spiking(model.stem, DATA, method="binary", progress=False)
    whole.save(tmp_path / "whole.fsnn")
    with pytest.raises(InputError, match="holds a whole network, which needs no model"):
        load(tmp_path / "whole.fsnn", model=model)


def test_programs_of_before_refuse_parts_by_the_version(saved: Path, tmp_path: Path) -> None:
    versions = [int.from_bytes(saved.read_bytes()[8:12], "little")]
    whole = to_spiking(nn.Sequential(nn.ReLU()), DATA, method="binary", progress=False)
    whole.save(tmp_path / "whole.fsnn")
    versions.append(int.from_bytes((tmp_path / "whole.fsnn").read_bytes()[8:12], "little"))
    assert versions == [container.VERSION, container.WHOLE]


def _lies(document: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(document))
    change(changed)
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["parts"].pop(),
        lambda d: d["paths"].update({"stem": ["other"]}),
        lambda d: d["paths"].update({"stem.__class__": ["stem.__class__"]}),
        lambda d: d["parts"][0].update(name="head"),
        lambda d: d["model"]["tensors"].update({"head.bias": 3}),
        lambda d: d["report"]["rows"].reverse(),
        lambda d: d["report"]["rows"][0].update(calls="many"),
        lambda d: d.update(lists=3),
        lambda d: d.update(parts=5),
        lambda d: d.pop("model"),
    ],
)
def test_a_damaged_document_is_refused(saved: Path, change: Callable[[Any], Any]) -> None:
    graph, content = container.read(saved)
    document = _lies(json.loads(graph), change)
    with pytest.raises(StorageError):
        file._unpacked(json.dumps(document).encode(), content, "it", torch.device("cpu"))
