"""Memory of a conversion and its evaluation, on few and on many images of mixed sizes.

Makes JPEGs of mixed sizes, in class folders and in shards, and runs `scripts/convert.py` in
processes of its own: on 50 images, on 5,000, and on 5,000 of which 2 % are corrupt. Calibration and
test take all images of a set each. What is measured is the most memory that any process of a run
held. Writes DIR/streaming.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import nn

_ROOT = Path(__file__).resolve().parents[1]
CLASSES, SIZE, BATCH, SHARDS = 10, 32, 25, 4
# What `scripts/convert.py --model benchmarks/streaming.py:network` reads.
PREPROCESSING = {
    "size": SIZE,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "classes": CLASSES,
    "resize": 36,
}


def network() -> nn.Module:
    """A small network with random weights, for images of 32 pixels."""
    # Only the processes that are measured import it: a large parent would count in their peak.
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 1, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, CLASSES),
    ).eval()  # fmt: skip


def encoded(number: int, seed: int) -> bytes:
    """A JPEG of a size between 40 and 120 pixels, smooth with some noise."""
    rng = np.random.default_rng([seed, number])
    height, width = rng.integers(40, 121, 2)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    pixels = np.asarray(small.resize((int(width), int(height)), Image.Resampling.BICUBIC))
    noisy = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def damaged(content: bytes, number: int) -> bytes:
    """The same cut off, emptied, or replaced by text."""
    return (content[: len(content) // 2], b"", b"<html>not found</html>")[number % 3]


def make_folder(path: Path, images: int, seed: int) -> Path:
    """Class folders of so many images."""
    for number in range(images):
        file = path / f"class{number % CLASSES}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(number, seed))
    return path


def make_shards(path: Path, folder: Path) -> str:
    """Shards of the images of a folder, with their labels; gives the pattern that names them."""
    path.mkdir()
    files = sorted(folder.glob("*/*.jpg"), key=lambda file: file.name)
    for shard in range(SHARDS):
        with tarfile.open(path / f"{shard:03d}.tar", "w") as archive:
            for file in files[shard::SHARDS]:
                label = file.parent.name.removeprefix("class").encode()
                for ending, content in (("jpg", file.read_bytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{file.stem}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return f"{path}/{{000..{SHARDS - 1:03d}}}.tar"


def spoil(folder: Path, every: int) -> Path:
    """Damages every so manyth image of a folder in place."""
    for i, file in enumerate(sorted(folder.glob("*/*.jpg"))[every // 2 :: every]):
        file.write_bytes(damaged(file.read_bytes(), i))
    return folder


@dataclass(frozen=True)
class Run:
    """What a run took.

    Args:
        megabytes: the most that one of its processes held.
        seconds: of the clock.
        skipped: images that were left out of calibration and test.
        images: that were tested.
    """

    megabytes: float
    seconds: float
    skipped: int
    images: int


def measured(test: Path | str, calibration: Path | str, output: Path, *words: str) -> Run:
    """Runs a conversion with an evaluation in a process of its own."""
    command = [
        sys.executable, str(_ROOT / "scripts" / "convert.py"), "--quiet",
        "--model", f"{Path(__file__).resolve()}:network", "--data", str(test),
        "--calibration", str(calibration), "--calibration-size", "1000000",
        "--batch-size", str(BATCH), "--steps", "4", "--method", "binary", "--by-site", "0",
        "--output", str(output), *words,
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    begin = time.perf_counter()
    with open(output.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": paths}
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(output.with_suffix(".log").read_text()[-2000:])
    report = json.loads((output / "report.json").read_text())
    skipped = sum(source["count"] for source in report.get("skipped", {}).values())
    seconds = time.perf_counter() - begin
    return Run(usage.ru_maxrss / 1024, seconds, skipped, report["images"])


def table(few: int, many: int, workers: int) -> Iterator[tuple[str, ...]]:
    """Measures everything; a row for each kind of source."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = {
            count: [make_folder(place / f"f{count}-{seed}", count, seed) for seed in (0, 1)]
            for count in (few, many)
        }
        shards = {
            count: [make_shards(place / f"s{count}-{i}", f) for i, f in enumerate(pair)]
            for count, pair in folders.items()
        }
        kinds: list[tuple[str, int, Mapping[int, Sequence[Path | str]]]] = [
            ("folder", 0, folders),
            (f"{SHARDS} shards", 0, shards),
            (f"folder, {workers} workers", workers, folders),
        ]
        for i, (what, processes, sources) in enumerate(kinds):
            words = ("--workers", str(processes))
            runs = [
                measured(*sources[count], place / f"out{i}-{count}", *words)
                for count in (few, many)
            ]
            share = f"{runs[1].megabytes / runs[0].megabytes - 1:+.1%}"
            figures = [f"{run.megabytes:.0f} MB" for run in runs]
            yield what, *figures, share, f"{runs[1].images:,}", "0", f"{runs[1].seconds:.0f} s"
        test, calibration = spoil(folders[many][0], 50), folders[many][1]
        run = measured(test, calibration, place / "out-corrupt", "--corrupt", "skip")
        figures = [f"{run.megabytes:.0f} MB", "", f"{run.images:,}", f"{run.skipped}"]
        yield "folder, 2 % of the test corrupt", "", *figures, f"{run.seconds:.0f} s"


def main() -> None:
    """Measures, prints, and writes the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--few", type=int, default=50, metavar="N")
    options.add_argument("--many", type=int, default=5000, metavar="N")
    options.add_argument("--workers", type=int, default=2, metavar="N")
    options.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    chosen = options.parse_args()
    rows = []
    for row in table(chosen.few, chosen.many, chosen.workers):
        print(*row, sep=" | ", flush=True)
        rows.append(row)
    heads = (
        "source", f"peak, {chosen.few:,} images", f"peak, {chosen.many:,} images", "more",
        "tested", "left out", "time",
    )  # fmt: skip
    lines = [heads, ("---",) * len(heads), *rows]
    text = (
        "# Memory on few and on many images\n\nA conversion and its evaluation by "
        f"`scripts/convert.py` on JPEGs of 40 to 120 pixels, cut to {SIZE} pixels, in batches of "
        f"{BATCH}:\n"
        "so many images to convert with, and as many others to test with. Peak: the most memory "
        "that one process\nof the run held. Written by `python benchmarks/streaming.py`.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )
    print(text)
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "streaming.md").write_text(text)


if __name__ == "__main__":
    main()
