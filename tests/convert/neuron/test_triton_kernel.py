"""The GPU's kernel: its bits under Triton's interpreter, and the code that is made of it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convert.neuron import fused, on_gpu
from convert.neuron.few_spikes import FewSpikesNeuron

_HERE = Path(__file__).resolve().parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="there is no Triton on this system"
)


@needs_triton
def test_under_the_interpreter() -> None:
    options = ["-n0", "-p", "no:cacheprovider", "--no-header"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(_HERE / "triton_interpreter.py")],
        cwd=_HERE.parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout


def _code(given: str, state: str, arch: int, *, everything: bool) -> dict[str, Any]:
    """What Triton makes of the kernel for an Nvidia GPU, which needn't be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from convert.neuron import triton_kernel as kernel

    x, number = f"*{given}", f"*{state}"
    kinds: dict[str, str | None] = {
        "x_ptr": x, "addend_ptr": x, "y_ptr": x, "T_ptr": number, "h_ptr": number,
        "d_ptr": number, "y0_ptr": number, "gates_ptr": number, "tally_ptr": "*u8",
        "count_ptr": "*i64", "size": "i32", "steps": "i32", "row": "i32", "gates": "i32",
    }  # fmt: skip
    if not everything:
        kinds |= dict.fromkeys(("addend_ptr", "gates_ptr", "tally_ptr", "count_ptr"))
    switches = dict.fromkeys(("ADDS", "GATED", "TALLIES", "COUNTS"), everything)
    states = {"fp32": torch.float32, "fp64": torch.float64}
    constants: dict[str, Any] = {name: None for name, kind in kinds.items() if kind is None}
    constants |= {"STATE": kernel._STATES[states[state]], "BLOCK": kernel.BLOCK, **switches}
    signature = {name: kinds.get(name) or "constexpr" for name in (*kinds, *constants)}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kinds)
        if name.endswith("_ptr") or name == "size"
    }
    source = ASTSource(kernel._steps, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return dict(made.asm)


@needs_triton
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton's interpreter compiles nothing"
)
@pytest.mark.parametrize("types", [("fp32", "fp32"), ("fp64", "fp64"), ("bf16", "fp32")])
@pytest.mark.parametrize("everything", [True, False])
def test_code_for_a_gpu_rounds_as_ieee_says(
    types: tuple[str, str], everything: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = _code(*types, 90, everything=everything)
    ptx = code["ptx"]
    # Denormals stay, no product and sum are fused, and nothing is multiplied at all.
    assert "ftz" not in ptx
    assert not re.search(r"\b(?:fma|mad)\.rn|\bmul\.\S*f(?:32|64)\b", ptx)
    width = types[1][2:]
    assert f"add.rn.f{width}" in ptx and f"sub.rn.f{width}" in ptx
    # Sixteen bytes at a time, and places of 64 bits.
    assert re.search(r"ld\.global\.v[24]\.b(?:32|64)", ptx)
    assert re.search(r"arith\.muli .* : i64", code["ttir"])
    assert code["cubin"]


def test_a_gpu_without_triton_runs_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    neuron = FewSpikesNeuron([0.5, 0.2], [0.5, 0.2], [1.0, 0.5])
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    expected = neuron(x)
    monkeypatch.setattr(on_gpu, "KINDS", {"cpu"})
    monkeypatch.setattr(on_gpu, "_kernel", lambda: None)
    assert not on_gpu.ready(x.device)
    assert torch.equal(neuron(x), expected)
    assert not fused.usable(x.half())
    assert torch.equal(neuron(x.half()), neuron(x.half().float()).half())


def test_a_broken_triton_is_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("libtriton.so: cannot open\nmore")

    monkeypatch.setattr(on_gpu, "import_module", broken)
    on_gpu._warn_once.cache_clear()
    assert on_gpu._kernel.__wrapped__() is None
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "Triton can't be loaded (libtriton.so: cannot open)"
    ]


def test_the_cpu_keeps_its_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Tensor:
        raise AssertionError("the kernel of GPUs ran on the CPU")

    monkeypatch.setattr(on_gpu, "run", refused)
    assert not on_gpu.ready(torch.device("cpu"))
    assert FewSpikesNeuron([0.5], [0.5], [1.0])(torch.tensor([1.0])).item() == 1.0
