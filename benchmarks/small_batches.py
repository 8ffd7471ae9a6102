"""Times single images and small batches: original and spiking, eager and compiled; writes a table.

On the CPU as it is, and with ``--device cuda`` on a GPU: there as a CUDA graph as well, and with
the number of times that the program waits for the GPU. All ways of a network are interleaved, and
the table holds medians.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from gpu_times import build, noise, timed
from torch import Tensor, nn

from convert import SpikingModel, evaluate, to_spiking
from convert.common.files import atomic_path
from convert.neuron import fused

NETWORKS = ("resnet20", "vit_tiny")
BATCHES = (1, 8)
SIDE = 32
_WARM_UP = 5
# Of one compilation, on two slow cores.
_COMPILING = 60.0
Ways = dict[str, Callable[[], object]]


def converted(name: str, device: torch.device) -> tuple[nn.Module, SpikingModel]:
    """A network with random weights, and its spiking network of K = 8."""
    model = build(name).to(device)
    images = list(noise(64, SIDE, device).split(32))
    return model, to_spiking(model, images, steps=8, method="binary", progress=False)


def graphed(run: Callable[[], Tensor]) -> Callable[[], None]:
    """The same as a CUDA graph, whose output is checked."""
    expected = run()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected), "the CUDA graph gives other values"
    return graph.replay


def ways(model: nn.Module, snn: SpikingModel, x: Tensor, *, compiled: bool) -> Ways:
    """Everything that is timed, by its name."""
    found: Ways = {"original": lambda: model(x), "spiking": lambda: snn(x)}
    if x.is_cuda:
        found["CUDA graph"] = graphed(lambda: snn(x))
    if compiled:
        for name, network in (("original, compiled", model), ("spiking, compiled", snn)):
            program = torch.compile(network, fullgraph=True)
            program(x)
            found[name] = lambda program=program: program(x)
    if compiled and x.is_cuda:
        fast = torch.compile(snn, fullgraph=True, mode="reduce-overhead")
        fast(x)
        found["spiking, reduce-overhead"] = lambda: fast(x)
    return found


def medians(runs: Ways, device: torch.device, seconds: float) -> dict[str, float]:
    """Milliseconds of every way, one round after the other for so many seconds."""
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found["original"]) < _WARM_UP:
        for name, run in runs.items():
            found[name].append(1000 * timed(device, run))
    return {name: statistics.median(times) for name, times in found.items()}


@contextmanager
def waits() -> Iterator[collections.Counter[str]]:
    """Counts, by the line of ours, how often the program waits for the GPU inside the block."""
    seen: collections.Counter[str] = collections.Counter()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchron" in str(message):
            ours = [f for f in traceback.extract_stack() if "/convert/" in f.filename]
            last = ours[-1] if ours else None
            place = last.filename.rpartition("/convert/")[2] if last else "elsewhere"
            seen[f"{place}:{last.lineno if last else 0}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before, warnings.showwarning = warnings.showwarning, note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before


def waiting(name: str, model: nn.Module, snn: SpikingModel, device: torch.device) -> list[str]:
    """How often a forward pass, counts, an evaluation and a conversion wait, and where most."""
    images = list(noise(64, SIDE, device).split(32))
    labels = torch.zeros(32, dtype=torch.long)

    def counted() -> None:
        with snn.count_spikes():
            snn(images[0])

    kinds: Ways = {
        "forward": lambda: snn(images[0]),
        "counted": counted,
        "evaluate": lambda: evaluate(snn, model, [(x, labels) for x in images], progress=False),
        "convert": lambda: to_spiking(model, images, steps=8, method="binary", progress=False),
    }
    for _ in range(2 * _WARM_UP):
        # The first calls wait for the check of their inputs.
        snn(images[0])
    lines = []
    for kind, run in kinds.items():
        with waits() as seen:
            run()
        where = ", ".join(f"{place} {count}" for place, count in seen.most_common(6))
        lines.append(f"{name} {kind}: {sum(seen.values())} waits ({where})")
        print(lines[-1], flush=True)
    return lines


def row(name: str, batch: int, found: dict[str, float]) -> str:
    """A row of the table: milliseconds of the original, and the time of the others over its."""
    base = found["original"]
    names = ("spiking", "original, compiled", "spiking, compiled", "spiking, reduce-overhead",
             "CUDA graph")  # fmt: skip
    cells = [f"{found[n] / base:.2f}" if n in found else "" for n in names]
    return f"| {name} | {batch} | {base:.2f} | " + " | ".join(cells) + " |"


def where_run(device: torch.device) -> str:
    """The machine, and versions."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    threads = torch.get_num_threads()
    return f"{card or f'{threads} thread' + 's' * (threads > 1)}, torch {torch.__version__}"


def main() -> None:
    """Measures within the budget, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds in all")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    end = time.perf_counter() + args.budget
    device = torch.device(args.device)
    # So that few images are enough for machine code.
    fused.WORTH_COMPILING = 0
    rows, lines = [], []
    with torch.no_grad():
        for number, name in enumerate(NETWORKS):
            model, snn = converted(name, device)
            if device.type == "cuda":
                lines += waiting(name, model, snn, device)
            for batch in BATCHES:
                left = end - time.perf_counter()
                parts = (len(NETWORKS) - number) * len(BATCHES)
                x = noise(batch, SIDE, device).contiguous()
                compiled = not args.no_compile and left / parts > _COMPILING / 2
                torch.compiler.reset()
                runs = ways(model, snn, x, compiled=compiled)
                seconds = min(20.0, max(1.0, (end - time.perf_counter()) / (2 * parts)))
                rows.append(row(name, batch, medians(runs, device, seconds)))
                print(rows[-1], flush=True)
    text = [
        "# Small batches",
        "",
        f"{where_run(device)}. Milliseconds of the original in eager mode, and the time of the",
        "others over its; medians of interleaved rounds, K = 8, images of 32 x 32.",
        f"Command: `python benchmarks/small_batches.py --device {device.type}`.",
        "",
        "| network | batch | original, ms | spiking | original, compiled | spiking, compiled "
        "| spiking, reduce-overhead | spiking, CUDA graph |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        *(["", "How often the program waits for the GPU:", ""] if lines else []),
        *(f"- {line}" for line in lines),
    ]
    with atomic_path(args.out) as path:
        path.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
