"""The script for a GPU: every piece of it on the CPU, in the smallest sizes."""

import importlib.util
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
_CPU = torch.device("cpu")


@pytest.fixture
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", _FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_bits_of_the_cpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    words = ["--part", gpu.EQUALITY, "--lines", str(lines), "--device", "cpu", "--tiny"]
    assert gpu.main([*words, "--budget", "300"]) == 0
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(rows) == 50 and rows[-1]["kind"] == "failed"
    checks = [row for row in rows if row["kind"] == "check"]
    assert len(checks) == 49 and all(row["wrong"] == 0 for row in checks)
    # On the CPU it isn't the kernel that ran, and that is told.
    assert [row["error"] for row in rows if row["kind"] == "failed"] == ["no kernel ran on cpu"]
    assert gpu.bits.wrong_beyond(_CPU, 5000) == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = [name for name, _ in gpu.bits.equality(torch.device("cuda"), 10)]
    assert names[-4:] == [
        "a CUDA graph",
        "nothing waits",
        "more than 2^31 values",
        "another device",
    ]


def test_what_differs_is_found(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    n = gpu.bits.neuron(1, torch.float32)
    x = gpu.bits.inputs(n, torch.float32, 500)
    decode = type(n).decode

    def off(self: Any, x: Any, addend: Any = None, *, plan: Any = None) -> Any:
        y = decode(self, x, addend, plan=plan)
        # The loop on the CPU is the first of the three calls.
        calls.append(1)
        return y if len(calls) % 3 == 1 else torch.where(x == x[-1], y + 1, y)

    calls: list[int] = []
    monkeypatch.setattr(type(n), "decode", off)
    assert gpu.bits.wrong(n, x, _CPU) == 2
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu.bits, "equality", lambda *_: [("a", lambda: 1 // 0), ("b", lambda: 3)])
    gpu.bits.check_bits(_CPU, 10, 100.0, rows.append)
    assert rows[0]["error"].startswith("ZeroDivisionError") and rows[1]["wrong"] == 3
    rows.clear()
    gpu.bits.check_bits(_CPU, 10, -1.0, rows.append)
    assert [row["error"] for row in rows[:2]] == ["no time left"] * 2


def test_a_network(gpu: ModuleType) -> None:
    rows: list[dict[str, Any]] = []
    small = gpu.Network("resnet20", 3, 32, (4, 2), ("fp32", "bf16"), 1.0)
    gpu.times.measure(small, _CPU, 0.0, rows.append)
    made, *times = rows
    assert made["kind"] == "conversion" and made["images"] == 4 and made["seconds"] > 0
    assert [row["mode"] for row in times] == ["fp32", "bf16"]
    for row in times:
        for name in ("original", "spiking", "with counts", "FewSpikeNode"):
            assert row[name]["median"] > 0 and row[name]["rounds"] == 1, row[name]
        # SpikingJelly's node has no backend of Triton's.
        assert "FewSpikeNode, Triton" not in row
    page = gpu.table(rows, gpu.environment(_CPU))
    lines = [line for line in page.splitlines() if line.startswith("| resnet20")]
    assert len(lines) == 3 and lines[0].count("|") == 10 and "(-)" in lines[0]
    assert "no GPU" in page and "torch " in page


def test_a_part_that_fails_is_told(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []

    def broken(name: str) -> nn.Module:
        raise torch.OutOfMemoryError("no memory | for it\nmore")

    monkeypatch.setattr(gpu.times, "build", broken)
    gpu.run_part("resnet18", _CPU, True, 10.0, rows.append)
    failed = {"kind": "failed", "name": "resnet18"}
    assert rows == [{**failed, "error": "OutOfMemoryError: no memory / for it"}]
    assert "- resnet18: OutOfMemoryError" in gpu.table(rows, "here")

    def run() -> None:
        raise torch.OutOfMemoryError("none")

    found = gpu.times.rounds({"original": lambda: 1, "spiking": run}, _CPU, time.perf_counter() - 1)
    assert found["spiking"] == {"error": "OutOfMemoryError: none"}
    row = {"kind": "times", "name": "n", "mode": "fp32", "batch": 2, **found}
    assert "| OutOfMemoryError: none |" in gpu.table([row], "here")
    lost = {**row, "original": {"error": "e"}, "spiking": {"median": 1.0, "rounds": 1}}
    assert "| e | 1000.00 ms (-) |" in gpu.table([lost], "here")


def test_networks_are_those_that_it_says(gpu: ModuleType) -> None:
    assert list(gpu.parts(False)) == ["equality", "resnet20", "resnet50", "vit_b_16"]
    batches = {n.name: (n.batch, n.side, n.modes) for n in gpu.networks(False)}
    assert batches["resnet50"] == (256, 224, ("fp32", "bf16")) and batches["vit_b_16"][0] == 128
    vit = gpu.times.build("vit_b_16")
    assert float(vit.heads.head.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_calls_of_a_gpu(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, done = torch.device("cuda"), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: done.append("waited"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: done.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    assert gpu.times.peak(cuda, lambda: done.append("ran")) == 3.0
    assert done == ["reset", "ran", "waited"]
    done.clear()
    assert gpu.times.timed(cuda, lambda: done.append("ran")) >= 0
    assert done == ["waited", "ran", "waited"]
    card = SimpleNamespace(name="A card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert gpu.environment(cuda).startswith("A card (80 GiB, sm_90); torch ")
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    assert gpu.bits.waits(_CPU) == 0 and modes == ["error", "default"]
    # A graph that replays nothing leaves what came of zeros.
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    assert gpu.bits.wrong_in_a_graph(_CPU) > 1000


def test_a_backend_that_nodes_have(gpu: ModuleType) -> None:
    node = nn.Identity()
    assert not gpu.times.with_triton(nn.Sequential(node))
    node.supported_backends, node.backend = ("torch", "triton"), "torch"
    assert gpu.times.with_triton(nn.Sequential(node)) and node.backend == "triton"


def test_without_a_gpu_it_says_so(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out.startswith("no GPU here") and not capsys.readouterr().out
    assert gpu.main(["--device", "cpu", "--parts", "resnet99"]) == 2
    assert "choose from equality, resnet20" in capsys.readouterr().out


def test_parts_run_by_themselves(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], timeout: float) -> SimpleNamespace:
        name, lines = command[command.index("--part") + 1], command[command.index("--lines") + 1]
        shares[name] = timeout
        if name == "equality":
            Path(lines).write_text(json.dumps({"kind": "check", "name": "a", "wrong": 0}) + "\n")
        elif name == "resnet20":
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(returncode=1 if name == "resnet18" else 0)

    shares: dict[str, float] = {}
    monkeypatch.setattr(gpu.subprocess, "run", run)
    arguments = ["--device", "cpu", "--tiny", "--budget", "100", "--out", str(tmp_path / "new")]
    assert gpu.main(arguments) == 1
    page = (tmp_path / "new" / "gpu.md").read_text()
    assert "1 of 1 checks" in page
    assert "- resnet20: stopped after" in page and "- resnet18: ended with 1" in page
    weights = gpu.parts(True)
    assert shares["equality"] == pytest.approx(100 * 0.8 / sum(weights.values()), rel=0.05)
    # What a part leaves is there for the others, and all together never have more.
    assert shares["vit_tiny"] == pytest.approx(100, rel=0.1)
    monkeypatch.setattr(gpu, "_LEAST", 1e9)
    gpu.main(arguments)
    assert (tmp_path / "new" / "gpu.md").read_text().count("no time left") == 4
