"""Hands a converted network over to SpikingJelly and NIR, and compares; prints a table.

Run ``python benchmarks/hand_over.py FILE.fsnn --data SOURCE`` with a file that
scripts/convert_cifar.py or scripts/convert.py wrote. NIR's part needs ``pip install nir``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from energy import batches_for
from spikingjelly.activation_based import monitor, neuron
from torch import Tensor

from convert import ExportError, SpikingModel, load
from convert.exporters import export_nir, nir_size, to_spikingjelly
from convert.inspect import simulate

_TESTS = Path(__file__).resolve().parents[1] / "tests"
# Images that one process without this package is given.
_ALONE = """
import sys, torch
sys.modules["convert"] = None
plain = torch.load(sys.argv[1] + "/net.pt", weights_only=False)
images, known = torch.load(sys.argv[1] + "/known.pt")
plain.load_state_dict(torch.load(sys.argv[1] + "/state.pt"))
with torch.no_grad():
    print(torch.equal(plain(images), known))
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("file", metavar="FILE")
    result.add_argument("--data", help="test images, as for scripts/convert_cifar.py")
    result.add_argument("--images", type=int, default=1000, metavar="N")
    result.add_argument("--nir-images", type=int, default=32, metavar="N")
    result.add_argument("--seed", type=int, default=0)
    return result


def predictions(snn: SpikingModel, batches: list[Tensor]) -> None:
    """The SpikingJelly module beside the network, in float32."""
    plain = to_spikingjelly(snn)
    same = count = 0
    far = 0.0
    begin = time.perf_counter()
    with torch.no_grad():
        for images in batches:
            a, b = plain(images), snn(images)
            same += int((a.argmax(1) == b.argmax(1)).sum())
            far, count = max(far, float((a - b).abs().max())), count + len(images)
    seconds = time.perf_counter() - begin
    share = f"{same} of {count} predictions are the same ({same / count:.2%})"
    print(f"SpikingJelly, float32: {share}, outputs differ by {far:.1e}; {seconds:.0f} s")
    print(f"on decoded sums: {plain.report['decoded'] or 'nothing'}")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        torch.save(plain, f"{folder}/net.pt")
        torch.save(plain.state_dict(), f"{folder}/state.pt")
        torch.save((batches[0][:10], plain(batches[0][:10])), f"{folder}/known.pt")
        alone = subprocess.run(
            [sys.executable, "-c", _ALONE, folder], cwd=folder, env={}, text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        size = Path(f"{folder}/net.pt").stat().st_size
    print(f"without `convert`: the same outputs {alone.stdout.strip()}; a file of {size:,} bytes")


def spikes(snn: SpikingModel, image: Tensor) -> None:
    """Every site's weighted spikes of one image, in float64; `snn` holds float64."""
    plain = to_spikingjelly(snn)
    with torch.no_grad(), monitor.OutputMonitor(plain, neuron.FewSpikeNode) as seen:
        plain(image)
    run = simulate(snn, image, record="*", progress=False)
    differ = total = 0
    for site, found in plain.report["sites"].items():
        (sent,) = seen[found["module"]]
        differ += int(((sent != 0) != run.spikes[site]).sum())
        total += int(run.spikes[site].sum())
    print(f"SpikingJelly, float64, one image: {differ} of {total:,} spikes at "
          f"{len(snn.sites)} sites differ from the simulation's")  # fmt: skip


def nir_spikes(snn: SpikingModel, images: Tensor) -> None:
    """The file of NIR, run by the interpreter of the tests; `snn` holds float64."""
    sys.path.insert(0, str(_TESTS))
    import nir
    import nir_interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        try:
            size = export_nir(snn, path, progress=False)
        except ExportError as error:
            print(f"NIR: {error}")
            return
        print(f"NIR, float64: {size}; {path.stat().st_size:,} bytes; compact "
              f"{nir_size(snn, compact=True)}")  # fmt: skip
        begin = time.perf_counter()
        graph = nir.read(path)
        print(f"read by nir {nir.version} in {time.perf_counter() - begin:.1f} s")
    (name,) = graph.inputs
    differ = total = 0
    for image in images.split(4):
        values = nir_interpreter.run(graph, **{name: image.numpy()})
        run = simulate(snn, image, record="*", progress=False)
        for site in snn.sites:
            found = torch.from_numpy(nir_interpreter.spikes_of(graph, values, site))
            differ += int((found ^ run.spikes[site]).sum())
            total += int(run.spikes[site].sum())
    print(f"NIR, {len(images)} images: {differ} of {total:,} spikes differ from the simulation's")


def main() -> None:
    """Entry point."""
    options = parser().parse_args()
    snn = load(options.file)
    batches = [batch if isinstance(batch, Tensor) else batch[0]
               for batch in batches_for(snn, options)]  # fmt: skip
    print(f"{options.file}: {len(snn.sites)} sites, K = {max(n.steps for n in snn.sites.values())}")
    predictions(snn, batches)
    snn = snn.double()
    images = torch.cat(batches)[: options.nir_images].double()
    spikes(snn, images[:1])
    nir_spikes(snn, images)


if __name__ == "__main__":
    main()
