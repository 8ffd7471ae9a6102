"""The files of a network in whole numbers: read by others, run by others, bit for bit."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.hardware_reader import Reader
from torch import Tensor, nn

from convert import InputError, to_spiking
from convert.hardware.quantise import quantise
from convert.hardware.records import Op
from convert.hardware.result import QuantisedModel


class Branches(nn.Module):
    """Pixels, groups, strides, a skip, a join of spikes, a constant, a mean and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=2)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.inner, self.head = nn.Linear(16, 6), nn.Linear(6, 4)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = nn.functional.silu(self.first(x))
        b = torch.relu(self.second(a))
        c = torch.relu(self.third(b) + b + self.shift)
        joined = torch.cat([c, b], 1)
        return self.head(torch.relu(self.inner(joined.mean((2, 3)))))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Normalised images of whole pixels."""
    p = torch.randint(0, 256, (48, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return (p.float() / 255 - 0.45) / 0.25


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "gated"])
def quantised(request: pytest.FixtureRequest, pixels: Tensor) -> Callable[[str], QuantisedModel]:
    torch.manual_seed(0)
    snn = to_spiking(
        Branches().eval(), pixels, steps=4, method="binary", gates=request.param, progress=False
    )
    made: dict[str, QuantisedModel] = {}

    def by(weights: str) -> QuantisedModel:
        if weights not in made:
            made[weights] = quantise(snn, pixels, weights=weights, progress=False)
        return made[weights]

    return by


@pytest.mark.parametrize("weights", ["power-of-two", "integer"])
def test_another_reader_finds_the_same_integers(
    quantised: Callable[[str], QuantisedModel], pixels: Tensor, tmp_path: Path, weights: str
) -> None:
    network = quantised(weights)
    paths = network.save(tmp_path)
    assert [Path(p).name for p in paths] == ["network.json", "network.npz", "reference.c"]
    reader = Reader(tmp_path)
    outputs, integers = reader.run(pixels[:6].numpy())
    compared = []

    def told(layer: Any, taken: Any, made: Tensor) -> None:
        assert np.array_equal(integers[layer.node.name], made.numpy()), layer.name
        compared.append(layer.op)

    found = network.run((pixels[:6],), {}, told)
    assert {Op.NEURON, Op.WEIGHTS, Op.SUM, Op.JOIN, Op.WINDOW} == set(compared)
    assert np.array_equal(found.numpy(), outputs.astype(np.float32))


def test_integers_have_their_types(
    quantised: Callable[[str], QuantisedModel], tmp_path: Path
) -> None:
    quantised("power-of-two").save(tmp_path)
    reader = Reader(tmp_path)
    assert all(a.dtype.kind == "i" for a in reader.arrays.values())
    for layer in reader.document["layers"]:
        arrays = {key: reader.arrays[name] for key, name in layer.get("arrays", {}).items()}
        if layer["op"] == "weights":
            assert arrays["weights"].dtype == np.int8 and arrays["bias"].dtype == np.int32
            assert layer["accumulator_most"] < 2**31
        if layer["op"] == "neuron":
            assert arrays["thresholds"].dtype == np.int16
            size = np.abs(arrays["weights"]).astype(np.int64)
            assert ((size & (size - 1)) == 0).all()
    first = next(x for x in reader.document["layers"] if x["op"] == "weights")
    # A pixel is 1 / (255 * 0.25) apart from the next, and 0.45 * 255 is nearest to 115.
    (read,) = first["inputs"]
    assert read["pixels"]["step"] == pytest.approx([1 / (255 * 0.25)] * 3, rel=1e-5)
    assert read["pixels"]["zero"] == [115] * 3 and read["most"] == 255


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[QuantisedModel], Path]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is here")

    def build(network: QuantisedModel) -> Path:
        folder = tmp_path_factory.mktemp("reference")
        network.save(folder)
        program = folder / "reference"
        strict = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
        subprocess.run(
            [compiler, "-O1", *strict, "-o", str(program), str(folder / "reference.c")], check=True
        )
        return program

    return build


def _called(program: Path, mode: str, name: str, integers: Tensor) -> list[int]:
    given = "\n".join(map(str, integers.flatten().tolist()))
    result = subprocess.run(
        [str(program), mode, name], input=given, capture_output=True, text=True, check=True
    )
    return [int(line) for line in result.stdout.split()]


@pytest.mark.parametrize("weights", ["power-of-two", "integer"])
def test_c_finds_the_same_integers(
    quantised: Callable[[str], QuantisedModel],
    compiled: Callable[[QuantisedModel], Path],
    pixels: Tensor,
    weights: str,
) -> None:
    network = quantised(weights)
    program = compiled(network)
    seen: dict[Any, tuple[Any, Any, Any]] = {}
    network.run(
        (pixels[:1],),
        {},
        lambda layer, taken, made: seen.update({layer.node: (layer, taken, made)}),
    )
    modes = []
    for layer, taken, made in seen.values():
        wanted = made.flatten().tolist()
        if layer.op is Op.NEURON:
            name = str(layer.node.target).rpartition(".")[2]
            assert _called(program, "neuron", name, taken[0]) == wanted
            modes.append("neuron")
        if layer.op is not Op.WEIGHTS:
            continue
        assert _called(program, "layer", layer.node.name, taken[0]) == wanted
        modes.append("layer")
        before = seen.get(layer.reads[0].node)
        if before is not None and before[0].op is Op.NEURON:
            # Spike by spike: shifted weights are added up, and nothing is multiplied.
            potentials = before[1][0]
            assert _called(program, "spikes", layer.node.name, potentials) == wanted
            modes.append("spikes")
    assert [modes.count(mode) for mode in ("neuron", "layer", "spikes")] == [4, 5, 3]


def test_c_knows_its_names(
    quantised: Callable[[str], QuantisedModel], compiled: Callable[[QuantisedModel], Path]
) -> None:
    program = compiled(quantised("power-of-two"))
    for arguments, told in (
        (["neuron", "nobody"], "there is no neuron of the name nobody"),
        (["layer"], "usage"),
        (["layer", "linear"], "linear takes 16 integers, found 1"),
    ):
        result = subprocess.run(
            [str(program), *arguments], input="1", capture_output=True, text=True
        )
        assert result.returncode == 2 and told in result.stderr


def test_what_stays_floating_point_is_in_the_file(tmp_path: Path) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(self.inner(x))))

    torch.manual_seed(0)
    x = torch.randn(40, 6)
    snn = to_spiking(Normed().eval(), x, steps=4, method="binary", progress=False)
    quantise(snn, x, progress=False).save(tmp_path)
    document = json.loads((tmp_path / "network.json").read_text("utf-8"))
    (norm,) = [layer for layer in document["layers"] if layer["op"] == "float"]
    assert norm["operation"] == "layer_norm" and norm["settings"]["eps"] == pytest.approx(1e-5)
    named = {layer["id"]: layer for layer in document["layers"]}
    weight = named[norm["settings"]["weight"]["from"]]
    arrays = np.load(tmp_path / "network.npz")
    assert np.array_equal(arrays[weight["arrays"]["constant"]], np.ones(8, np.float32))


def test_a_folder_that_is_a_file_is_refused(
    quantised: Callable[[str], QuantisedModel], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="can't write"):
        quantised("power-of-two").save(tmp_path / "taken")
