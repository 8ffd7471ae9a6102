"""Checks the neuron's kernel on a GPU bit by bit, and times networks there; writes a table.

Run ``python benchmarks/gpu.py`` wherever a GPU is at hand: it takes less than --budget seconds.
Every part runs in a process of its own with its own share of them, so that one that fails or hangs
is a line of the table and stops no other. ``--check`` does the bit-equality part under Triton's
interpreter on the CPU. Weights are random; times are medians of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import spikingjelly
import torch
import torchvision
from torch import Tensor, nn

import models
from convert import SpikingModel, to_spiking
from convert.common.files import atomic_path
from convert.neuron import fused, on_gpu
from convert.neuron.few_spikes import FewSpikesNeuron, NeuronPlan

sys.path.append(str(Path(__file__).resolve().parent))
from forward import with_nodes

Tell = Callable[[dict[str, Any]], None]

# A part ends itself after this share of its time; the rest is for starting and for ending.
_OWN_SHARE = 0.8
_MOST_ROUNDS = 15
# A part that would have fewer seconds isn't started.
_LEAST = 5.0
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Types of the input and of the membrane potential.
_TYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float64),
    (torch.bfloat16, torch.float64),
    (torch.float32, torch.float64),
]


@dataclass(frozen=True)
class Network:
    """A network that is timed.

    Args:
        name: of this project's or torchvision's.
        batch, side: images, and their height and width.
        calibration: images, and how many a batch.
        modes: ``fp32``, or ``bf16`` under autocast.
        weight: its share of the time.
    """

    name: str
    batch: int
    side: int
    calibration: tuple[int, int]
    modes: tuple[str, ...]
    weight: float


NETWORKS = (
    Network("resnet20", 256, 32, (512, 128), ("fp32",), 1.0),
    Network("resnet50", 256, 224, (128, 32), ("fp32", "bf16"), 2.0),
    Network("vit_b_16", 128, 224, (64, 16), ("fp32",), 1.5),
)
EQUALITY, EQUALITY_WEIGHT = "equality", 0.8
COLUMNS = ("spiking", "with counts", "FewSpikeNode", "FewSpikeNode, Triton")


# Bits.


def neuron(intervals: int, state: torch.dtype, steps: int = 8) -> FewSpikesNeuron:
    """A neuron with numbers of many magnitudes; with gates if there are several intervals."""
    g = torch.Generator().manual_seed(10 * intervals)
    shape = (steps,) if intervals == 1 else (intervals, steps)
    T, h, d = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    d = d * 10.0 ** torch.randint(-6, 3, shape, generator=g)
    if intervals == 1:
        return FewSpikesNeuron(T, h.abs(), d, 0.3, dtype=state)
    gates = torch.randn(intervals - 1, generator=g).sort()[0]
    return FewSpikesNeuron(T, h.abs(), d, torch.randn(intervals, generator=g), gates, dtype=state)


def inputs(n: FewSpikesNeuron, dtype: torch.dtype, size: int) -> Tensor:
    """Values at every gate and threshold and one float beside them, odd ones, and ordinary ones."""
    v = n.thresholds.reshape(-1, n.steps)
    at = [v.flatten(), (v[:, 1:] + n.resets.view_as(v)[:, :-1]).flatten()]
    exact = torch.cat(at if n.gates is None else [*at, n.gates]).to(dtype)
    up, down = (torch.nextafter(exact, torch.full_like(exact, s * torch.inf)) for s in (1, -1))
    tiny, inf = torch.finfo(dtype).tiny, torch.inf
    odd = torch.tensor([torch.nan, inf, -inf, -0.0, 0.0, tiny / 8, -tiny / 8, tiny], dtype=dtype)
    x = 2 * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(dtype)
    awkward = torch.cat([odd, -exact, exact, up, down])[:size]
    places = torch.randperm(size, generator=torch.Generator().manual_seed(2))[: len(awkward)]
    x[places] = awkward
    return x


def told(
    n: FewSpikesNeuron, x: Tensor, addend: Tensor | None = None, steps: int | None = None
) -> tuple[Tensor, int, Tensor]:
    """Output, events, and those of each value, on the CPU."""
    counts: list[Any] = []
    tallies: list[Tensor] = []
    with torch.no_grad():
        y = n.decode(x, addend, plan=NeuronPlan(steps, False, counts.append, tally=tallies.append))
    return y.cpu(), int(counts[0]), tallies[0].cpu()


@contextmanager
def plain_loop() -> Iterator[None]:
    """The definition, step by step, in torch."""
    before = fused.usable
    fused.usable = lambda _: False  # type: ignore[assignment]
    try:
        yield
    finally:
        fused.usable = before


def differing(found: Tensor, expected: Tensor) -> int:
    """Values whose bits differ; NaN is NaN."""
    kind, nan = _BITS[expected.element_size()], expected.isnan()
    bits = (found.contiguous().view(kind) != expected.contiguous().view(kind)) & ~nan
    return int(bits.sum() + (found.isnan() != nan).sum())


def wrong(
    n: FewSpikesNeuron, x: Tensor, device: torch.device, addend: Tensor | None = None,
    steps: int | None = None,
) -> int:  # fmt: skip
    """Values that a device gives otherwise than the loop on the CPU; so with their events."""
    with plain_loop():
        expected = told(n, x, addend, steps)
    there = FewSpikesNeuron(
        n.thresholds, n.resets, n.weights, n.offset, n.gates, dtype=n.thresholds.dtype
    ).to(device)
    moved = None if addend is None else addend.to(device)
    found = told(there, x.to(device), moved, steps)
    lost = int((found[2] != expected[2]).sum()) + (found[1] != expected[1])
    with torch.no_grad():
        quiet = there.decode(x.to(device), moved, plan=NeuronPlan(steps)).cpu()
    return differing(found[0], expected[0]) + differing(quiet, expected[0]) + lost


def equality(device: torch.device, values: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Every check by its name: a function that counts what is wrong."""
    for dtype, state in _TYPES:
        for intervals in (1, 4):
            n = neuron(intervals, state)
            x = inputs(n, dtype, values)
            z = torch.randn(values, generator=torch.Generator().manual_seed(3)).to(dtype)
            kind = "gated" if intervals > 1 else "plain"
            name = f"{kind}, {_short(dtype)} in {_short(state)}"
            yield name, lambda n=n, x=x: wrong(n, x, device)
            yield f"{name}, a sum", lambda n=n, x=x, z=z: wrong(n, x, device, z)
            yield f"{name}, three steps", lambda n=n, x=x: wrong(n, x, device, None, 3)
    n = neuron(4, torch.float32)
    odd = inputs(n, torch.float32, 3 * 8 * 7 * 9).view(3, 8, 7, 9)
    layouts = {
        "channels last": odd.to(memory_format=torch.channels_last),
        "transposed": odd.transpose(1, 2),
        "strided": odd[:, ::2],
        "expanded": odd[:1, :1].expand(3, 4, 7, 9),
        "memory at an odd place": odd.view(-1)[1:],
        "one value": odd[0, 0, 0, 0],
        "no value": odd[:0],
    }
    for name, x in layouts.items():
        yield name, lambda x=x: wrong(n, x, device)
    if device.type == "cuda":
        yield "a CUDA graph", lambda: wrong_in_a_graph(device)
        yield "nothing waits", lambda: waits(device)
        yield "more than 2^31 values", lambda: wrong_beyond(device, 2**31 + 1000)
        if torch.cuda.device_count() > 1:
            other = torch.device("cuda", 1)
            yield "another device", lambda: wrong(n, odd, other)


def wrong_in_a_graph(device: torch.device) -> int:
    """Values that a recorded CUDA graph gives otherwise when it is run on new ones."""
    n = neuron(4, torch.float32).to(device)
    x = inputs(n.cpu(), torch.float32, 10_000)
    n, static = n.to(device), torch.zeros(10_000, device=device)
    plan = NeuronPlan(count=lambda count: kept.append(count))
    kept: list[Any] = []
    with torch.no_grad():
        n.decode(static, plan=plan)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = n.decode(static, plan=plan)
        static.copy_(x)
        graph.replay()
    found, count = y.cpu(), int(kept[-1])
    with plain_loop():
        expected = told(n.cpu(), x)
    return differing(found, expected[0]) + (count != expected[1])


def waits(device: torch.device) -> int:
    """Whether a neuron that is counted makes the program wait for the GPU."""
    n = neuron(4, torch.float32).to(device)
    x = torch.randn(10_000, device=device)
    plan = NeuronPlan(3, True, lambda count: None, tally=lambda tally: None)
    with torch.no_grad():
        n.decode(x, x.clone(), plan=plan)
        torch.cuda.set_sync_debug_mode("error")
        try:
            n.decode(x, x.clone(), plan=plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return 0


def wrong_beyond(device: torch.device, size: int) -> int:
    """Values at the end of a tensor of so many that are given otherwise than by themselves."""
    n = neuron(1, torch.float32).to(device)
    x = torch.zeros(size, dtype=torch.bfloat16, device=device)
    last = inputs(n.cpu(), torch.bfloat16, 1000)
    x[-1000:] = last.to(device)
    with torch.no_grad():
        y = n.to(device).decode(x)
    with plain_loop():
        expected = told(n.cpu(), torch.cat([last, torch.zeros(1, dtype=torch.bfloat16)]))[0]
    # The first value of all, and one from the middle, are those of a zero.
    found = torch.cat([y[-1000:], y[:1]]).cpu()
    return differing(found, expected) + differing(y[size // 2][None].cpu(), expected[-1:])


def check_bits(device: torch.device, values: int, seconds: float, tell: Tell) -> None:
    """Tells the result of every check, as far as time allows."""
    end = time.perf_counter() + seconds
    for name, check in equality(device, values):
        if time.perf_counter() > end:
            tell({"kind": "check", "name": name, "error": "no time left"})
            continue
        try:
            tell({"kind": "check", "name": name, "wrong": check()})
        except Exception as error:
            tell({"kind": "check", "name": name, "error": first_line(error)})
    if not on_gpu.ready(device):
        tell({"kind": "failed", "name": EQUALITY, "error": f"no kernel ran on {device}"})


# Times.


def build(name: str) -> nn.Module:
    """A network with random weights in eval mode."""
    torch.manual_seed(0)
    if name in ("resnet20", "vit_tiny"):
        return models.get(name, "random", None, 10).eval()
    model = torchvision.models.get_model(name, weights=None).eval()
    head = getattr(getattr(model, "heads", None), "head", None)
    if head is not None:
        # It is zero at first, and so would all outputs be.
        nn.init.normal_(head.weight, std=0.02)
    return model


def noise(count: int, side: int, device: torch.device) -> Tensor:
    """Images of noise, channels last."""
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return x.to(device, memory_format=torch.channels_last)


def synchronise(device: torch.device) -> None:
    """Waits for what was given to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device, run: Callable[[], object]) -> float | None:
    """The most memory that tensors had during a run, in MiB; None on the CPU."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def timed(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of one run."""
    synchronise(device)
    begin = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - begin


@contextmanager
def mode(name: str, device: torch.device) -> Iterator[None]:
    """No gradients, and autocast for ``bf16``."""
    cast: AbstractContextManager[Any] = nullcontext()
    if name == "bf16":
        cast = torch.autocast(device.type, dtype=torch.bfloat16)
    with torch.no_grad(), cast:
        yield


def with_triton(nodes: nn.Module) -> bool:
    """Switches SpikingJelly's nodes to their Triton backend; False if they have none."""
    found = False
    for module in nodes.modules():
        if "triton" in getattr(module, "supported_backends", ()):
            module.backend = "triton"
            found = True
    return found


def ways(model: nn.Module, snn: SpikingModel, x: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by its name."""

    def counted() -> None:
        with snn.count_spikes():
            snn(x)

    nodes, fast = with_nodes(snn), with_nodes(snn)
    found: dict[str, Callable[[], object]] = {
        "original": lambda: model(x),
        "spiking": lambda: snn(x),
        "with counts": counted,
        "FewSpikeNode": lambda: nodes(x),
    }
    if with_triton(fast):
        found["FewSpikeNode, Triton"] = lambda: fast(x)
    return found


def rounds(
    runs: dict[str, Callable[[], object]], device: torch.device, end: float
) -> dict[str, dict[str, Any]]:
    """Medians and peaks of every run, one round after the other; one that fails drops out."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in runs}
    going = dict(runs)
    for number in range(_MOST_ROUNDS + 1):
        for name, run in list(going.items()):
            try:
                # The first round warms up, and tells the memory.
                if not number:
                    run()
                    found[name]["peak"] = peak(device, run)
                else:
                    found[name]["seconds"].append(timed(device, run))
            except Exception as error:
                found[name]["error"] = first_line(error)
                del going[name]
        if number and time.perf_counter() > end:
            break
    for row in found.values():
        times = row.pop("seconds")
        if times:
            row |= {"median": statistics.median(times), "rounds": len(times)}
    return found


def measure(network: Network, device: torch.device, seconds: float, tell: Tell) -> None:
    """Converts a network and times it in every mode."""
    begin = time.perf_counter()
    model = build(network.name).to(device, memory_format=torch.channels_last)
    count, batch = network.calibration
    images = list(noise(count, network.side, device).split(batch))
    made: list[SpikingModel] = []

    def convert() -> None:
        made.append(to_spiking(model, images, steps=8, method="binary", progress=False))

    started = time.perf_counter()
    most = peak(device, convert)
    tell(
        {
            "kind": "conversion",
            "name": network.name,
            "images": count,
            "seconds": time.perf_counter() - started,
            "peak": most,
        }
    )
    snn, x = made[0], noise(network.batch, network.side, device)
    for number, name in enumerate(network.modes):
        left = begin + seconds - time.perf_counter()
        end = time.perf_counter() + left / (len(network.modes) - number)
        with mode(name, device):
            found = rounds(ways(model, snn, x), device, end)
        tell({"kind": "times", "name": network.name, "mode": name, "batch": network.batch} | found)


# Parts, each in a process of its own.


def networks(tiny: bool) -> tuple[Network, ...]:
    """What is timed; for a trial, in the smallest sizes."""
    if not tiny:
        return NETWORKS
    small = {"resnet50": "resnet18", "vit_b_16": "vit_tiny"}
    return tuple(
        replace(n, name=small.get(n.name, n.name), batch=3, side=32, calibration=(4, 2))
        for n in NETWORKS
    )


def parts(tiny: bool) -> dict[str, float]:
    """The share of each part, by its name."""
    return {EQUALITY: EQUALITY_WEIGHT} | {n.name: n.weight for n in networks(tiny)}


def run_part(name: str, device: torch.device, tiny: bool, seconds: float, tell: Tell) -> None:
    """Does one part; what goes wrong is told."""
    warnings.simplefilter("ignore")
    try:
        if name == EQUALITY:
            check_bits(device, 3000 if tiny else 1_000_000, seconds, tell)
        else:
            (network,) = (n for n in networks(tiny) if n.name == name)
            measure(network, device, seconds, tell)
    except Exception as error:
        traceback.print_exc()
        tell({"kind": "failed", "name": name, "error": first_line(error)})


def to_file(path: Path) -> Tell:
    """Appends what is told to a file, a line each, so that nothing is lost with the process."""

    def tell(row: dict[str, Any]) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    return tell


def run_all(chosen: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every part in a process of its own, each with its share of the time that is left."""
    end = time.perf_counter() + options.budget
    weights = parts(options.tiny)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(chosen):
        left = end - time.perf_counter()
        share = left * weights[name] / sum(weights[n] for n in chosen[i:])
        if share < _LEAST:
            rows.append({"kind": "failed", "name": name, "error": "no time left"})
            continue
        print(f"{name}: {share:.0f} s", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "lines"
            command = [sys.executable, __file__, "--part", name, "--lines", str(lines)]
            command += ["--budget", str(_OWN_SHARE * share), "--device", options.device]
            command += ["--tiny"] if options.tiny else []
            error = ""
            try:
                code = subprocess.run(command, timeout=share).returncode
                error = f"ended with {code}" if code else ""
            except subprocess.TimeoutExpired:
                error = f"stopped after {share:.0f} s"
            if lines.is_file():
                rows += [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
            if error:
                rows.append({"kind": "failed", "name": name, "error": error})
    return rows


# The table.


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What an error says, in one line of a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".replace("|", "/")


def environment(device: torch.device) -> str:
    """Names and versions of what the figures depend on."""
    if device.type == "cuda":
        p = torch.cuda.get_device_properties(device)
        card = f"{p.name} ({p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor})"
    else:
        card = f"no GPU ({platform.machine()})"
    versions = {"torch": torch.__version__, "CUDA": torch.version.cuda}
    versions |= {"SpikingJelly": getattr(spikingjelly, "__version__", "2.0")}
    try:
        import triton

        versions["Triton"] = triton.__version__
    except ImportError:
        versions["Triton"] = "none"
    return f"{card}; " + ", ".join(f"{name} {version}" for name, version in versions.items())


def table(rows: list[dict[str, Any]], where: str) -> str:
    """The page in Markdown."""
    lines = ["# On a GPU", "", f"{where}.", "Command: `python benchmarks/gpu.py`.", ""]
    checks = [row for row in rows if row["kind"] == "check"]
    if checks:
        good = sum(row.get("wrong") == 0 for row in checks)
        lines += [f"Bits: {good} of {len(checks)} checks find every value as the loop gives it."]
        for row in checks:
            if row.get("wrong") != 0:
                said = row.get("error") or f"{row['wrong']} values differ"
                lines.append(f"- {row['name']}: {said}")
        lines.append("")
    times = [row for row in rows if row["kind"] == "times"]
    if times:
        lines += [
            "Milliseconds of the original, and the time of the others over its; medians. K = 8, "
            "channels last; fp32 lets",
            "convolutions use TF32, as torch does. In brackets the most memory in MiB. "
            "SpikingJelly's node has no Triton",
            "backend where that column is empty.",
            "",
            "| network | batch | type | original, ms | " + " | ".join(COLUMNS) + " | rounds |",
            "|---|---|---|---|" + "---|" * (len(COLUMNS) + 1),
        ]
        lines += [_line_of(row) for row in times]
        lines.append("")
    made = [row for row in rows if row["kind"] == "conversion"]
    if made:
        lines += ["| network | conversion, s | images | most memory, MiB |", "|---|---|---|---|"]
        for row in made:
            most = _number(row["peak"], ".0f")
            lines.append(f"| {row['name']} | {row['seconds']:.1f} | {row['images']} | {most} |")
        lines += ["", 'Conversions with `method="binary"`: fits run on the CPU.', ""]
    failed = [row for row in rows if row["kind"] == "failed"]
    if failed:
        lines += ["Failed:", ""]
        lines += [f"- {row['name']}: {row['error']}" for row in failed]
    return "\n".join(lines).rstrip() + "\n"


def _line_of(row: dict[str, Any]) -> str:
    base = row["original"].get("median")
    cells = [row["name"], str(row["batch"]), row["mode"]]
    for name in ("original", *COLUMNS):
        one = row.get(name)
        if one is None:
            cells.append("")
        elif "error" in one or "median" not in one:
            cells.append(one.get("error", "no time left"))
        else:
            own, ratio = f"{1e3 * one['median']:.2f}", one["median"] / base if base else None
            shown = own if name == "original" else _number(ratio, ".2f") if base else f"{own} ms"
            cells.append(f"{shown} ({_number(one.get('peak'), '.0f')})")
    cells.append(str(row["original"].get("rounds", 0)))
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--budget", type=float, default=450.0, help="seconds for everything")
    options.add_argument("--parts", nargs="+", help="some parts only")
    options.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    options.add_argument("--check", action="store_true", help="bits only, interpreted on the CPU")
    options.add_argument("--tiny", action="store_true", help="the smallest sizes: a trial")
    options.add_argument("--part", help=argparse.SUPPRESS)
    options.add_argument("--lines", type=Path, help=argparse.SUPPRESS)
    return options.parse_args(arguments)


def check() -> int:
    """The bit-equality part under Triton's interpreter; 1 if a value differs."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        # It must be chosen before anything imports Triton.
        chosen = {**os.environ, "TRITON_INTERPRET": "1"}
        return subprocess.run([sys.executable, __file__, "--check"], env=chosen).returncode
    on_gpu.KINDS = frozenset({"cpu"})
    cpu = torch.device("cpu")
    if not on_gpu.ready(cpu):
        print("Triton isn't installed here: pip install triton")
        return 2
    bad = 0
    for name, run in equality(cpu, 20_000):
        found = run()
        bad += found
        print(f"{name}: {f'{found} wrong' if found else 'same bits'}", flush=True)
    return 1 if bad else 0


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints and writes the table; 2 where there is no GPU, 1 if a part failed."""
    options = parsed(arguments)
    if options.check:
        return check()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU here: run this where torch finds one, or with --check on the CPU")
        return 2
    device = torch.device(options.device)
    if options.part:
        run_part(options.part, device, options.tiny, options.budget, to_file(options.lines))
        return 0
    chosen = options.parts or list(parts(options.tiny))
    unknown = [name for name in chosen if name not in parts(options.tiny)]
    if unknown:
        print(f"no part is called {unknown[0]}: choose from {', '.join(parts(options.tiny))}")
        return 2
    rows = run_all(chosen, options)
    page = table(rows, environment(device))
    print(page)
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out / "gpu.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    bad = any(row["kind"] == "failed" or row.get("wrong", 0) or "error" in row for row in rows)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
