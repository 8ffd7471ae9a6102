"""Converts every torchvision classification network and measures it; writes a table.

Run ``python benchmarks/zoo.py [NAME ...]`` from the project's folder. Every network's line is kept
in ``docs/zoo.jsonl``, so that a run that was stopped goes on where it was, and two may share the
work; ``docs/zoo.md`` is written from all lines there are. With ``--gates 3`` every neuron has four
tables, and the line stands beside the network's line with one table.

Weights are random, and heads that start at zero get some. Batch norms take their statistics from
one pass over the calibration images. The images are noise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from convert import ConversionError, RangeWarning, audit, evaluate, to_spiking
from convert.common.files import atomic_path

IMAGES = 64
STEPS = (12, 8)
GATES = (0, 3)
OUTLIER = 0.3
SIDE = 64
# Where the smallest sensible image is another one; four patches a side for transformers.
SIDES = {
    "inception_v3": 75,
    "maxvit_t": 224,
    "vit_b_16": 64,
    "vit_b_32": 128,
    "vit_h_14": 56,
    "vit_l_16": 64,
    "vit_l_32": 128,
}
DOCS = Path(__file__).resolve().parents[1] / "docs"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("names", nargs="*", metavar="NAME", help="networks; all if none")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--gates", type=int, default=0, choices=GATES, metavar="N")
    result.add_argument("--steps", type=int, nargs="+", default=STEPS, choices=STEPS, metavar="K")
    result.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda, ...")
    result.add_argument("--lines", type=Path, default=DOCS / "zoo.jsonl", metavar="FILE")
    result.add_argument("--table", type=Path, default=DOCS / "zoo.md", metavar="FILE")
    result.add_argument("--quiet", action="store_true")
    return result


def every_name() -> list[str]:
    """torchvision's classification networks."""
    return torchvision.models.list_models(module=torchvision.models)


def model_of(name: str, seed: int) -> nn.Module:
    """A network with random weights; a head that starts at zero gets some."""
    torch.manual_seed(seed)
    more: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        more["init_weights"] = True
    if name.startswith("vit_"):
        more["image_size"] = SIDES[name]
    model = torchvision.models.get_model(name, weights=None, **more).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


def set_statistics(model: nn.Module, images: Tensor) -> None:
    """Gives batch norms the mean and variance that these images have there."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        # Norms alone: dropped paths would give statistics of another network.
        norm.train()
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def measured(
    name: str,
    seed: int,
    gates: int = 0,
    steps: Sequence[int] = STEPS,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """One network's line."""
    steps = sorted(steps, reverse=True)
    side = SIDES.get(name, SIDE)
    model = model_of(name, seed).to(device)
    random = torch.Generator().manual_seed(seed + 1)
    images = torch.randn(2 * IMAGES, 3, side, side, generator=random)
    known, new = images.to(device).split(IMAGES)
    set_statistics(model, known)
    line: dict[str, Any] = {"name": name, "seed": seed, "gates": gates, "side": side}
    if torch.device(device).type == "cuda":
        line["device"] = torch.cuda.get_device_name(device)
    begin = time.process_time()
    try:
        calibration = list(known.split(16))
        snn = to_spiking(model, calibration, steps=steps, gates=gates, seed=seed, progress=False)
    except ConversionError as error:
        return line | {"failed": str(error)}
    line["seconds"] = time.process_time() - begin
    report = snn.report
    line["sites"] = len(report.sites)
    line["products"] = sum(o.kind == "product" for o in report.operations)
    line["remaining"] = Counter(o.op for o in report.operations if o.kind == "remaining")
    line["spike_driven"] = report.spike_driven
    line["agrees"] = all(audit(snn, new[:size]).agrees for size in (1, 3))
    found = evaluate(snn, model, list(new.split(16)), by_site=0, at=steps[:1], progress=False)
    line["errors"] = {
        str(steps[0]): found.spiking.logit_rmse,
        **{str(row.steps): row.logit_rmse for row in found.by_K},
    }
    if size(line["errors"][str(steps[0])]) > OUTLIER:
        single = evaluate(snn, model, new[:4], by_site=4, at=steps[:1], progress=False)
        worst = max(single.by_site, key=lambda row: size(row.logit_rmse))
        line["culprit"] = {"site": worst.name, "error": worst.logit_rmse}
    return line


def size(error: float | None) -> float:
    """An error to compare by: one without a value, from NaN or infinity, is the largest."""
    return math.inf if error is None else error


def figure(error: float | None, digits: int) -> str:
    """An error in a table; a dash where there is no value."""
    return "-" if error is None else f"{error:.{digits}f}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole; a stopped run may have left half a line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def add(path: Path, line: dict[str, Any]) -> None:
    """Appends a line, by one write, so that two runs may share a file."""
    before = path.read_bytes() if path.exists() else b""
    half = before != b"" and not before.endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * half + json.dumps(line) + "\n")


def key(line: dict[str, Any]) -> tuple[str, int, int]:
    """What was measured. Lines of before there were gates have none."""
    return line["name"], line["seed"], line.get("gates", 0)


def error_at(line: dict[str, Any] | None, steps: int) -> float | None:
    """A line's error at K; None where there is no line, or no value."""
    return None if line is None or "failed" in line else line["errors"].get(str(steps))


def at_largest(line: dict[str, Any]) -> float | None:
    """A line's error at the largest K that was measured."""
    return error_at(line, max(map(int, line["errors"])))


def medians(lines: list[dict[str, Any]], gates: int) -> str:
    """Median errors at each K, in words."""
    tables = "one table" if gates == 0 else f"{gates + 1} tables"
    parts = []
    for k in sorted(STEPS):
        errors = [line["errors"][str(k)] for line in lines if str(k) in line.get("errors", ())]
        if errors:
            median = statistics.median(map(size, errors))
            parts.append(f"{median:.3f} at K = {k} ({len(errors)} networks)")
    return f"{tables} a neuron, " + ", ".join(parts)


def written(lines: list[dict[str, Any]], seed: int) -> str:
    """The page, from lines of one seed."""
    found = {key(line)[::2]: line for line in lines}
    names = [name for name in every_name() if any((name, g) in found for g in GATES)]
    by_gates = {g: [found[name, g] for name in names if (name, g) in found] for g in GATES}
    rows = []
    for name in names:
        pair = [found.get((name, g)) for g in GATES]
        whole = [line for line in pair if line is not None and "failed" not in line]
        if not whole:
            continue
        line = whole[0]
        rows.append(
            (
                name,
                line["side"],
                line["sites"],
                line["products"],
                ", ".join(f"{n} {op}" for op, n in sorted(line["remaining"].items())) or "none",
                f"{line['spike_driven']:.0%}",
                "agrees" if all(line["agrees"] for line in whole) else "DIFFERS",
                *(figure(error_at(line, k), 4) for line in pair for k in sorted(STEPS)),
                *("-" if line not in whole else f"{line['seconds']:.0f}" for line in pair),
            )
        )
    header = ("network", "side", "sites", "products", "remaining", "spike-driven", "audit")
    tables = ["", *(f" G = {g + 1}" for g in GATES[1:])]
    header = (*header, *(f"K = {k}{g}" for g in tables for k in sorted(STEPS)))
    header = (*header, *(f"seconds{g}" for g in tables))
    parts = [
        "# torchvision's classification networks",
        f"{len(rows)} of {len(every_name())} networks convert, and the audit agrees with "
        f"the report on {sum(row[6] == 'agrees' for row in rows)}. Median relative error of the "
        "logits: "
        + "; ".join(
            medians(by_gates[g], g)
            for g in GATES
            if any("failed" not in line for line in by_gates[g])
        )
        + ".",
        f"Default settings, and `--gates` for G tables a neuron, which take one time step more "
        f"than K (`benchmarks/zoo.py`, seed {seed}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}). Weights are random, heads that start at zero "
        f"are given weights, batch norms take their statistics from one pass over {IMAGES} noise "
        f"images, which serve as calibration images too; errors are those on {IMAGES} other ones, "
        "root mean square over the logits' own around each image's mean. *Spike-driven* is the "
        "share of multiply-accumulates with spikes as inputs. *Audit*: every nonlinear operation "
        "that ran outside a neuron is in the report and the reverse, for batches of 1 and 3. "
        "*Seconds* are processor time of the conversion for both K, on one thread. "
        "ConvNeXt's blocks begin with a scale of 1e-6 and add nothing to speak of.",
        "\n".join(
            "| " + " | ".join(map(str, row)) + " |"
            for row in [header, ("---",) * len(header), *rows]
        ),
    ]
    for gates in GATES:
        outliers = [line for line in by_gates[gates] if "culprit" in line]
        if not outliers:
            continue
        of = "" if gates == 0 else f", {gates + 1} tables a neuron"
        parts.append(
            f"## Errors above {OUTLIER} at the largest K{of}\n\n"
            "The site that does most alone, and the error of the logits if only it spikes (on 4 "
            "images):\n\n| network | error | site | alone |\n|---|---|---|---|\n"
            + "\n".join(
                f"| {line['name']} | {figure(at_largest(line), 3)} "
                f"| `{line['culprit']['site']}` | {figure(line['culprit']['error'], 3)} |"
                for line in outliers
            )
        )
    if any("culprit" in line for line in by_gates[GATES[-1]]):
        parts.append(
            "What such networks do with the errors of perfect neurons is in a table of its own "
            "([limits](../benchmarks/zoo_limits.md)): on images other than those that their batch "
            "norms know, values may go far beyond the range that calibration saw, and every error "
            "grows from layer to layer."
        )
    for gates in GATES:
        missing = sorted(set(every_name()) - {line["name"] for line in by_gates[gates]})
        if missing and (by_gates[gates] or gates == 0):
            of = "" if gates == 0 else f" with {gates + 1} tables"
            parts.append(f"Not measured{of}: {', '.join(missing)}.")
        for device in sorted({line["device"] for line in by_gates[gates] if "device" in line}):
            there = [line["name"] for line in by_gates[gates] if line.get("device") == device]
            parts.append(f"Measured on {device} with {gates + 1} tables: {', '.join(there)}.")
        parts += [
            f"Failed: {line['name']}: {line['failed']}"
            for line in by_gates[gates]
            if "failed" in line
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measures what no line is there for yet, then writes the table."""
    options = parser().parse_args()
    warnings.simplefilter("ignore", RangeWarning)
    unknown = sorted(set(options.names) - set(every_name()))
    if unknown:
        sys.exit(f"error: torchvision has no classification network {', '.join(unknown)}")
    print(f"seed {options.seed}")
    # Convolutions of 10 bits would be an error of their own.
    torch.backends.cudnn.allow_tf32 = False
    bar = tqdm(options.names or every_name(), "zoo", disable=True if options.quiet else None)
    for name in bar:
        bar.set_postfix_str(name)
        if (name, options.seed, options.gates) not in map(key, lines_of(options.lines)):
            line = measured(name, options.seed, options.gates, options.steps, options.device)
            add(options.lines, line)
            print(json.dumps(line), flush=True)
    lines = [line for line in lines_of(options.lines) if line["seed"] == options.seed]
    text = written(lines, options.seed)
    with atomic_path(options.table) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
