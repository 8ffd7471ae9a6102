"""The package `fewspikes`: the names of `convert` and `models` under one."""

import subprocess
import sys
from pathlib import Path

import pytest

import convert
import fewspikes
import models

_ROOT = Path(__file__).resolve().parents[2]


def _run(program: str, folder: Path) -> str:
    """What a program prints that runs in a folder, which its imports see first."""
    start = f"import sys; sys.path.insert(1, {str(_ROOT)!r})\n"
    result = subprocess.run(
        [sys.executable, "-c", start + program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_names_are_those_of_convert() -> None:
    assert all(getattr(fewspikes, name) is getattr(convert, name) for name in convert.__all__)
    assert set(dir(fewspikes)) == {*convert.__all__, "inspect", "models", "__version__"}


def test_models_are_those_of_models() -> None:
    assert all(getattr(fewspikes.models, name) is getattr(models, name) for name in models.__all__)


def test_what_inspects_is_that_of_convert() -> None:
    assert fewspikes.inspect.__all__ == convert.inspect.__all__
    for name in convert.inspect.__all__:
        assert getattr(fewspikes.inspect, name) is getattr(convert.inspect, name)


@pytest.mark.parametrize("name", ["to_spikes", "conversion", "__wrapped__"])
def test_a_name_that_there_is_not(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(fewspikes, name)


def test_nothing_heavy_is_imported_at_first(tmp_path: Path) -> None:
    program = """
import fewspikes
fewspikes.__version__
assert "torch" not in sys.modules
# Torch's compiler takes as long to load as torch; a conversion needs it, a saved network doesn't.
fewspikes.load, fewspikes.evaluate, fewspikes.to_spiking
print([name for name in ("torch._dynamo", "sympy", "torch.onnx") if name in sys.modules])
"""
    assert _run(program, tmp_path) == "[]"


def test_a_folder_of_the_users_hides_no_models(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    program = """
from fewspikes import models
from fewspikes.models import DataError
import pickle
network, images = models.get("resnet8_digits"), pickle.loads(pickle.dumps(models.Preprocessing))
assert "models" not in sys.modules
assert pickle.loads(pickle.dumps(DataError("lost"))).args == ("lost",)
print(type(network).__module__)
"""
    assert _run(program, tmp_path).startswith("fewspikes._models")
