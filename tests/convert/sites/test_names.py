"""Names that differ, and whose modules differ."""

import linecache
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from convert import load, to_spiking
from convert.sites.names import Names, module_name


def test_names_and_paths_differ() -> None:
    taken = Names(["a.relu", "b"])
    wanted = ("a_relu", "a.relu", "b", "b_1", "b", "c")
    assert [taken.unique(name) for name in wanted] == [
        "a_relu_1", "a.relu_2", "b_1", "b_1_1", "b_2", "c",
    ]  # fmt: skip


def test_many_of_one_name_take_no_time() -> None:
    taken = Names()
    started = time.process_time()
    names = [taken.unique("relu") for _ in range(20_000)]
    assert time.process_time() - started < 2
    assert names[0] == "relu" and names[-1] == "relu_19999" and len(set(names)) == 20_000


def test_modules_are_called_by_what_a_file_can_hold() -> None:
    wanted = {"a.relu": "a_relu", "float": "float_", "lambda": "lambda_", "__a": "_a", "é 1": "_1"}
    assert {name: module_name(name) for name in wanted} == wanted
    taken = Names()
    assert taken.unique("<ipython-input-3-ab>:2.left") == "ipython-input-3-ab:2.left"
    assert taken.unique(" ?") == "site" and len(taken.unique("x" * 500)) <= 60


@pytest.mark.parametrize(
    "file", ["<stdin>", "<ipython-input-3-abc>", "/tmp/ipykernel_12/345.py", "my net (2)\u00e9.py"]
)
def test_networks_from_any_source_are_saved(file: str, tmp_path: Path) -> None:
    code = "def forward(self, x):\n    y = self.a(x)\n    return self.b(y * self.c(x).relu())\n"
    linecache.cache[file] = len(code), None, code.splitlines(True), file
    made: dict[str, object] = {}
    exec(compile(code, file, "exec"), made)
    net = type("Net", (nn.Module,), {"forward": made["forward"]})()
    net.a, net.c, net.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    x = torch.randn(16, 4)
    options = {"steps": 2, "method": "binary", "encode": True, "progress": False}
    snn = to_spiking(net.eval(), x, **options)
    assert any(":3" in name for name in snn.sites)
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    with torch.no_grad():
        assert set(back.sites) == set(snn.sites) and torch.equal(back(x), snn(x))
