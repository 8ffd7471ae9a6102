"""Files that older versions wrote still load and give the outputs that they gave then.

Each holds, as metadata, some inputs and the outputs that the network gave before it was saved.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convert import SpikingModel, load

_FOLDER = Path(__file__).resolve().parents[2] / "data"
_FILES = sorted(_FOLDER.glob("*.fsnn"))


def _inputs(snn: SpikingModel) -> Tensor:
    wide = any(t.dtype == torch.float64 for t in snn.network.state_dict().values())
    return torch.tensor(snn.metadata["input"], dtype=torch.float64 if wide else torch.float32)


def _close(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return all(_close(found[name], value) for name, value in expected.items())
    return torch.allclose(found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


def test_there_is_one_of_each_kind() -> None:
    assert {path.name.partition("_")[0] for path in _FILES} >= {"v1", "v2"}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_an_older_file_loads(path: Path, tmp_path: Path) -> None:
    snn = load(path)
    x = _inputs(snn)
    with torch.no_grad():
        assert _close(snn(x), snn.metadata["output"])
        for key, expected in snn.metadata.items():
            if key.startswith("output at K = "):
                with snn.with_steps(int(key.rpartition(" ")[2])):
                    assert _close(snn(x), expected)
    assert str(snn.report)
    snn.save(tmp_path / "again.fsnn")
    with torch.no_grad():
        assert _close(load(tmp_path / "again.fsnn")(x), snn.metadata["output"])
