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
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import spikingjelly
import torch

sys.path.append(str(Path(__file__).resolve().parent))
import gpu_bits as bits
import gpu_times as times
from gpu_bits import Tell, first_line
from gpu_times import NETWORKS, Network

from convert.common.files import atomic_path
from convert.neuron import on_gpu

# A part ends itself after this share of its time; the rest is for starting and for ending.
_OWN_SHARE = 0.8
# A part that would have fewer seconds isn't started.
_LEAST = 5.0


EQUALITY, EQUALITY_WEIGHT = "equality", 0.8
COLUMNS = ("spiking", "with counts", "FewSpikeNode", "FewSpikeNode, Triton")


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
            bits.check_bits(device, 3000 if tiny else 1_000_000, seconds, tell)
        else:
            (network,) = (n for n in networks(tiny) if n.name == name)
            times.measure(network, device, seconds, tell)
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
    timed = [row for row in rows if row["kind"] == "times"]
    if timed:
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
        lines += [_line_of(row) for row in timed]
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
    for name, run in bits.equality(cpu, 20_000):
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
