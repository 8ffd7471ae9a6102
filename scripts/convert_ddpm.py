"""Converts a diffusion model into a few-spikes network, and draws digits with both.

The network is a DDPM-style U-Net, trained on scikit-learn's digits by scripts/train_ddpm.py; its
weights come with the package. Both networks draw from the same noise. No download and no GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from arguments import Parser, add_common, add_gates
from command import run_command

import convert
import models
from convert.common.files import atomic_path
from convert.common.tables import table
from convert.fitting.methods import DEFAULT, EFFORTS, METHODS
from fewspikes.commands.endings import leave
from fewspikes.commands.kinds import count, place, steps, whole
from models.devices import device_named
from models.diffusion import SAMPLERS, Denoiser
from models.drawn_digits import CLASSIFIER, DrawnDigits
from models.pictures import draw_rows
from models.sample_distance import SURE
from models.trajectory import NoisyImages, spread_error

_COLUMNS = {
    "relative_error": "error on the way",
    "largest_relative_error": "largest",
    "final_drift": "drift",
    "frechet_to_original": "Fréchet",
    "kernel_to_original": "kernel",
    "frechet_to_digits": "Fréchet to digits",
    "kernel_to_digits": "kernel to digits",
    "recognised": "recognised",
    "same_class": "same class",
}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = Parser(description=__doc__)
    result.add_argument("--weights", help="a checkpoint of the U-Net, as train_ddpm.py writes it")
    result.add_argument("--steps", type=steps, nargs="+", default=[8, 4, 12, 16], metavar="K")
    add_gates(result)
    result.add_argument(
        "--method", nargs="+", choices=sorted(METHODS), default=[DEFAULT], help="one or several"
    )
    result.add_argument("--effort", choices=EFFORTS, default="normal")
    result.add_argument(
        "--normalisation", action="store_true", help="neurons for squares and roots in group norms"
    )
    result.add_argument(
        "--max-pool", action="store_true", help="row maxima of softmaxes as tournaments of ReLUs"
    )
    result.add_argument(
        "--plain", action="store_true", help="leave the layers' mean errors in their biases"
    )
    result.add_argument(
        "--samples", type=whole, default=450, metavar="N", help="digits to draw, at least 2"
    )
    result.add_argument("--sampler", choices=SAMPLERS, default="ddpm")
    result.add_argument(
        "--sampling-steps",
        type=whole,
        metavar="S",
        help="time steps to go through; all if left out",
    )
    result.add_argument(
        "--repeats",
        type=whole,
        default=2,
        metavar="R",
        help="noisy copies of each training digit to calibrate on",
    )
    result.add_argument(
        "--limit", type=whole, metavar="N", help="calibrate and test on the first N digits only"
    )
    result.add_argument("--by-site", type=count, default=64, metavar="N", help="images; 0 for none")
    result.add_argument("--device", default="cpu")
    result.add_argument("--output", required=True, type=place, metavar="DIR")
    add_common(result)
    return result


def refuse_constant(model: Denoiser, images: NoisyImages, device: torch.device) -> None:
    """Refuses a network that says the same of every image, before anything is converted."""
    x, t = next(iter(images))
    with torch.no_grad():
        noise = model(x.to(device), t.to(device))
    if len(noise) > 1:
        spread_error(noise, noise)


def run(options: argparse.Namespace) -> None:
    """Converts, evaluates, draws, prints and writes report.json and samples.png."""
    begin = time.perf_counter()
    bars = not options.quiet
    if len(set(options.method)) < len(options.method):
        raise convert.ConversionError(f"--method names one twice: {' '.join(options.method)}")
    for method in options.method:
        convert.ConversionSettings(steps=options.steps, method=method, effort=options.effort)
    model, schedule = models.ddpm_digits(options.weights, seed=options.seed)
    device = device_named(options.device)
    model.to(device)
    train, test = (
        models.load_images("digits", train=which).first(options.limit) for which in (True, False)
    )
    calibration = NoisyImages(train, schedule, repeats=options.repeats, seed=options.seed)
    held_out = NoisyImages(test, schedule, seed=options.seed + 1)
    refuse_constant(model, held_out, device)
    print(
        f"seed {options.seed}: calibration on {len(calibration.x)} noisy digits at all "
        f"{schedule.steps} time steps, {options.samples} digits drawn by {options.sampler}",
        flush=True,
    )
    drawn = DrawnDigits(
        model,
        schedule,
        test,
        options.samples,
        seed=options.seed,
        sampler=options.sampler,
        count=options.sampling_steps,
        device=device,
        progress=bars,
    )
    rows: list[dict[str, Any]] = []
    evaluations: dict[str, Any] = {}
    pictures = {"original": drawn.images}
    for method in options.method:
        snn = convert.to_spiking(
            model,
            calibration,
            steps=options.steps,
            method=method,
            gates=options.gates,
            effort=options.effort,
            seed=options.seed,
            sequential=not options.plain,
            normalisation=options.normalisation,
            max_pool=options.max_pool,
            progress=bars,
        )
        result = convert.evaluate(
            snn, model, held_out, metric="output", by_site=options.by_site, progress=bars
        )
        print(f"\n{snn.report}\n\n{result}\n", flush=True)
        evaluations[method] = result.to_dict()
        found = [{**result.spiking, "steps": snn.steps}, *result.by_K]
        for row in sorted(found, key=lambda row: row["steps"]):
            with snn.with_steps(row["steps"]):
                images, figures = drawn.follow(snn)
            pictures[f"{method}, K = {row['steps']}"] = images
            rows.append(
                {
                    "method": method,
                    "steps": row["steps"],
                    "held_out_relative_error": row["relative_error"],
                    "spikes_per_neuron": row["spikes_per_neuron"],
                    **figures,
                }
            )
        snn.save(options.output / f"ddpm_digits_{method}.fsnn", metadata={"method": method})
    print(shown(rows, drawn.yardsticks))
    report = {
        "model": "ddpm_digits",
        "steps": options.steps[0],
        "gates": options.gates,
        "methods": options.method,
        "seed": options.seed,
        "normalisation": options.normalisation,
        "max_pool": options.max_pool,
        "sequential": not options.plain,
        "samples": options.samples,
        "sampler": options.sampler,
        "sampling_steps": len(schedule.visited(options.sampling_steps)),
        "noise_steps": schedule.steps,
        "calibration_images": len(calibration.x),
        "classifier": {"model": CLASSIFIER, "recognised_from": SURE},
        "yardsticks": drawn.yardsticks,
        "by_K": rows,
        "evaluations": evaluations,
        "seconds": time.perf_counter() - begin,
    }
    with atomic_path(options.output / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw_rows(pictures, options.output / "samples.png")
    print(f"\nwritten: {options.output / 'report.json'}, {options.output / 'samples.png'}")
    print(f"{report['seconds']:.0f} s in all")


def shown(rows: list[dict[str, Any]], yardsticks: dict[str, dict[str, Any]]) -> str:
    """The table for the reader."""
    head = ("network", "K", "error, held out", *_COLUMNS.values())
    cells = [
        (row["method"], row["steps"], row["held_out_relative_error"], *(row[k] for k in _COLUMNS))
        for row in rows
    ]
    cells += [
        (name, None, None, *(values.get(key) for key in _COLUMNS))
        for name, values in yardsticks.items()
    ]
    return (
        "Digits drawn by both networks from the same noise. Errors are of the predicted noise, "
        "relative to its spread: on noisy held-out digits, and on the way, at each time step on "
        "the spiking network's own images; drift is of the drawn images. Distances on features "
        "of a classifier trained on the digits; recognised: it gives a class at least "
        f"{SURE:.0%}.\n{table(head, cells)}"
    )


def main() -> int:
    """Entry point; errors of use end in one line, without a traceback."""
    return run_command(
        parser(),
        run,
        writes=lambda o: [
            "report.json", "samples.png", *(f"ddpm_digits_{method}.fsnn" for method in o.method)
        ],
    )  # fmt: skip


if __name__ == "__main__":
    leave(main())
