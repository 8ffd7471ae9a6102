"""Converts torchvision's networks and compares each report with the audit; writes a table.

Weights are random and the neurons binary tables: this is about the structure. Run
``python benchmarks/networks.py [NAME ...]`` from the project's folder.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from pathlib import Path

import torch
import torchvision
from torch import nn

from convert import RangeWarning, audit, to_spiking

# Side of the smallest sensible image.
NETWORKS = {
    "vit_b_16": 224,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
    "efficientnet_v2_s": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "inception_v3": 75,
    "googlenet": 64,
    "shufflenet_v2_x0_5": 64,
    "mnasnet0_5": 64,
    "squeezenet1_1": 64,
}
HEAD = (
    "| network | sites | products | remaining | spike driven | audit, batch 1 | batch 3 "
    "| seconds |\n"
    "|---|---|---|---|---|---|---|---|"
)


def model_of(name: str) -> nn.Module:
    """A network with random weights; a head that starts at zero gets some."""
    torch.manual_seed(0)
    more = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    model = torchvision.models.get_model(name, weights=None, **more).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


def row(name: str, side: int) -> str:
    """One line of the table."""
    model, x = model_of(name), torch.randn(4, 3, side, side)
    begin = time.perf_counter()
    snn = to_spiking(model, x, steps=8, method="binary")
    verdicts = []
    with torch.no_grad():
        for size in (1, 3):
            agrees = audit(snn, x[:size]).agrees
            finite = bool(snn(x[:size]).isfinite().all())
            verdicts.append("agrees" if agrees and finite else "DIFFERS")
    seconds = time.perf_counter() - begin
    counts = Counter(o.op for o in snn.report.operations if o.kind == "remaining")
    remaining = ", ".join(f"{count} {op}" for op, count in sorted(counts.items())) or "none"
    products = sum(o.kind == "product" for o in snn.report.operations)
    cells = (name, len(snn.sites), products, remaining, f"{snn.report.spike_driven:.1%}")
    return "| " + " | ".join(map(str, (*cells, *verdicts, f"{seconds:.0f}"))) + " |"


def main() -> None:
    """Prints every line as it is measured; writes the table if all networks were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    chosen = parser.parse_args().names or list(NETWORKS)
    warnings.simplefilter("ignore", RangeWarning)
    print(HEAD)
    rows = []
    for name in chosen:
        rows.append(row(name, NETWORKS[name]))
        print(rows[-1], flush=True)
    if chosen == list(NETWORKS):
        text = (
            "# torchvision's networks: sites, what remains, and the audit\n\n"
            "Random weights, K = 8, binary tables, noise images of the smallest sensible size "
            f"(`benchmarks/networks.py`, torch {torch.__version__}, torchvision "
            f"{torchvision.__version__}, {torch.get_num_threads()} thread). Audit: every "
            "nonlinear operation that ran outside a neuron is in the report and the reverse, "
            "products too. Seconds: capture, fit, audits.\n\n"
        )
        Path(__file__).with_suffix(".md").write_text(text + "\n".join([HEAD, *rows]) + "\n")


if __name__ == "__main__":
    main()
