"""What networks of the zoo do with the errors of perfect neurons."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_one_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(_FOLDER))
    spec = importlib.util.spec_from_file_location("zoo_limits", _FOLDER / "zoo_limits.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.zoo, "IMAGES", 8)
    out = tmp_path / "limits.md"
    monkeypatch.setattr(
        sys, "argv", ["zoo_limits.py", "squeezenet1_1", "--quiet", "--out", str(out)]
    )
    module.main()
    (found,) = re.findall(r"^\| squeezenet1_1 \| (.*) \|$", out.read_text(), re.M)
    reach, rounding, once, thrice, ten, little, more = map(float, found.split(" | "))
    assert reach >= 1
    # Exact functions are the network itself, save where inputs are cut off or noise is added.
    assert rounding < 1e-4 and ten <= thrice < once < 0.5
    assert more == pytest.approx(10 * little, rel=0.2)
