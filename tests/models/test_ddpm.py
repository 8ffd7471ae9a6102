"""The denoising U-Net, its schedule, sampling, training, and what measures the samples."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import models
from models import DataError, ModelError
from models.data import Images
from models.ddpm import UNet, time_table
from models.diffusion import Schedule, in_batches, sample
from models.diffusion_training import DiffusionRecipe, loss_by_time, scaled, train_diffusion
from models.drawn_digits import DrawnDigits
from models.pictures import draw_rows
from models.sample_distance import frechet_distance, kernel_distance, look, pixels
from models.trajectory import NoisyImages, spread_error
from models.trajectory import Path as SamplePath

ROOT = Path(__file__).parents[2]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_unet_sees_image_and_time() -> None:
    torch.manual_seed(0)
    model = UNet(20).eval()
    torch.nn.init.normal_(model.leave.weight)
    for block in (model.down1, model.middle1):
        torch.nn.init.normal_(block.conv2.weight, std=0.1)
    x, t = _normal(3, 1, 8, 8), torch.tensor([0, 7, 19])
    with torch.no_grad():
        y = model(x, t)
        assert y.shape == x.shape
        assert not torch.allclose(model(x, t.flip(0))[1:], y[1:])
        torch.testing.assert_close(model(x[1:2], t[1:2]), y[1:2])


def test_time_table_is_sinusoidal() -> None:
    table = time_table(50, 8)
    assert table.shape == (50, 8)
    frequency = 10_000 ** (-1 / 4)
    assert table[13, 1] == pytest.approx(math.sin(13 * frequency), abs=1e-6)
    assert table[13, 5] == pytest.approx(math.cos(13 * frequency), abs=1e-6)


def test_noise_takes_over() -> None:
    schedule = Schedule(40)
    kept = schedule.kept
    assert (kept.diff() < 0).all() and kept[0] > 0.99 and kept[-1] < 1e-3
    # Unit variance stays unit variance at every step.
    x, noise = _normal(4000, 1, 1, 1), _normal(4000, 1, 1, 1, seed=1)
    for t in (0, 20, 39):
        noisy = schedule.add_noise(x, noise, torch.full((4000,), t))
        assert float(noisy.var()) == pytest.approx(1, abs=0.08)
    with pytest.raises(ModelError, match="at least 2"):
        Schedule(1)


class Knowing(torch.nn.Module):
    """Predicts the noise exactly, for images that are all one image."""

    def __init__(self, schedule: Schedule, image: Tensor) -> None:
        super().__init__()
        self.schedule, self.image = schedule, image

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.schedule.kept[t].to(x).view(-1, 1, 1, 1)
        return (x - kept.sqrt() * self.image) / (1 - kept).sqrt()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("count", [None, 7])
def test_sampling_finds_the_only_image(sampler: str, count: int | None) -> None:
    schedule, image = Schedule(30), torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    drawn = sample(Knowing(schedule, image), schedule, (5, 1, 8, 8), sampler=sampler, count=count)
    torch.testing.assert_close(drawn, image.expand(5, -1, -1, -1), atol=1e-4, rtol=0)


def test_ancestral_steps_have_the_posterior_of_ddpm() -> None:
    # Ho et al. 2020, equations 6 and 7: mean and variance of x(t-1) given x(t) and x(0).
    schedule, t = Schedule(30), 12
    kept, before = float(schedule.kept[t]), float(schedule.kept[t - 1])
    alpha, x, clean = kept / before, 0.7, 0.3
    mean = math.sqrt(before) * (1 - alpha) / (1 - kept) * clean
    mean += math.sqrt(alpha) * (1 - before) / (1 - kept) * x
    deviation = math.sqrt((1 - before) / (1 - kept) * (1 - alpha))
    noise = (x - math.sqrt(kept) * clean) / math.sqrt(1 - kept)
    full = [torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (x, noise, 1.7)]
    found = schedule.before(*full, t, t - 1, 1.0)
    assert float(found) == pytest.approx(mean + 1.7 * deviation, rel=1e-9)


def test_one_seed_gives_one_noise() -> None:
    schedule = Schedule(12)
    starts: list[Tensor] = []
    for seed in (3, 3, 4):
        sample(
            lambda x, t: torch.zeros_like(x),
            schedule,
            (4, 1, 8, 8),
            seed=seed,
            watch=lambda t, x, found: starts.append(x),
        )
    first, second, other = starts[0], starts[12], starts[24]
    assert torch.equal(first, second) and not torch.equal(first, other)
    with pytest.raises(ModelError, match="ddim"):
        sample(lambda x, t: x, schedule, (1, 1, 8, 8), sampler="euler")
    with pytest.raises(ModelError, match="1 to 12"):
        sample(lambda x, t: x, schedule, (1, 1, 8, 8), count=13)


def test_a_network_that_follows_itself_has_no_error() -> None:
    schedule = Schedule(10)
    model = UNet(10, channels=8).eval()
    torch.nn.init.normal_(model.leave.weight, std=0.1)
    path = SamplePath(model, schedule, (6, 1, 8, 8), seed=2)
    same = path.follow(model)
    assert same.mean_error == same.mean_drift == same.final_drift == 0
    assert torch.equal(same.images, path.images)

    def louder(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return 1.1 * model(x, t)

    other = path.follow(louder)
    assert other.times == list(range(9, -1, -1))
    # At the start both see the same noise; a tenth too much is a tenth of the RMS around zero.
    assert other.drift[0] == 0 and other.drift[-1] > 0 and other.final_drift > 0
    x = path.passed[0]
    with torch.no_grad():
        reference = in_batches(model, x, 9).double()
    spread = (reference - reference.mean(0)).square().sum()
    expected = 0.1 * float((reference.square().sum() / spread).sqrt())
    assert other.error[0] == pytest.approx(expected, rel=1e-4)
    assert other.to_dict()["by_time"][0]["t"] == 9


def test_spread_error() -> None:
    reference = _normal(50, 3)
    assert spread_error(reference.mean(0).expand(50, 3), reference) == pytest.approx(1)
    assert spread_error(reference + 5 - 5, reference) == pytest.approx(0, abs=1e-5)


def test_no_spread_is_no_error() -> None:
    with pytest.raises(ModelError, match="same output for every image"):
        spread_error(_normal(5, 3), torch.ones(5, 3))
    with pytest.raises(ModelError, match="repeats"):
        NoisyImages(models.load_images("digits").first(3), Schedule(5), repeats=0)


def test_drawn_digits_of_one_network_and_another() -> None:
    model, schedule = models.ddpm_digits()
    test = models.load_images("digits").first(100)
    drawn = DrawnDigits(model, schedule, test, 30, seed=5, sampler="ddim", count=4)
    assert drawn.images.shape == (30, 1, 8, 8)
    assert set(drawn.yardsticks) == {
        "original", "original, another seed", "noise", "held-out digits"
    }  # fmt: skip
    noise, own = drawn.yardsticks["noise"], drawn.yardsticks["original, another seed"]
    assert noise["frechet_to_original"] > own["frechet_to_original"]
    assert noise["recognised"] < 0.5 < drawn.yardsticks["held-out digits"]["recognised"]
    images, figures = drawn.follow(model)
    assert torch.equal(images, drawn.images)
    assert figures["relative_error"] == figures["final_drift"] == 0 and figures["same_class"] == 1
    assert figures["frechet_to_original"] == pytest.approx(0, abs=1e-4)
    assert figures["frechet_to_digits"] == drawn.yardsticks["original"]["frechet_to_digits"]
    with pytest.raises(ModelError, match="at least 2, found 1"):
        DrawnDigits(model, schedule, test, 1)
    with pytest.raises(DataError, match="at least 2"):
        DrawnDigits(model, schedule, test.first(1), 5)


def test_noisy_images_cover_every_time_step() -> None:
    digits = models.load_images("digits").first(30)
    schedule = Schedule(20)
    data = NoisyImages(digits, schedule, repeats=2, seed=1, batch_size=25)
    batches = list(data)
    assert len(batches) == len(data) == 3
    t = torch.cat([t for _, t in batches])
    assert torch.equal(torch.bincount(t), torch.full((20,), 3))
    for (x, _), (again, _) in zip(batches, data, strict=True):
        assert torch.equal(x, again)
    early = int(t.argmin())
    x = torch.cat([x for x, _ in batches])[early]
    assert float((x - scaled(digits)[early % 30]).abs().mean()) < 0.2


def test_shipped_weights_know_held_out_digits() -> None:
    model, schedule = models.ddpm_digits()
    images = scaled(models.load_images("digits"))
    assert images.min() == -1 and images.max() == 1
    first, *_, last = loss_by_time(model, images[:200], schedule)
    assert last < 0.03 and first < 0.4
    assert sum(p.numel() for p in model.parameters()) * 4 < 2_000_000
    with pytest.raises(ModelError, match="no weights"):
        models.ddpm_digits("nowhere.pt")


def test_distances_tell_digits_from_noise() -> None:
    classifier = models.get("resnet8_digits")
    preprocessing = models.preprocessing("resnet8_digits")
    test = models.load_images("digits")
    half, rest = Images(test.x[::2], test.y[::2], ""), Images(test.x[1::2], test.y[1::2], "")
    a, b = (look(classifier, preprocessing, images) for images in (half, rest))
    noise = look(classifier, preprocessing, pixels(_normal(225, 1, 8, 8)))
    assert a.features.shape == (225, 64)
    assert float((a.classes.numpy() == half.y).mean()) > 0.97
    assert a.recognised > 0.9 > 0.5 > noise.recognised
    for distance in (frechet_distance, kernel_distance):
        assert distance(noise.features, b.features) > 10 * distance(a.features, b.features)
    assert frechet_distance(a.features, a.features) == pytest.approx(0, abs=1e-6)


def test_distances_by_hand() -> None:
    a, b = _normal(4000, 2).double(), 2 * _normal(4000, 2, seed=1).double() + 3
    # Means differ by 3 and deviations by 1 in each of two dimensions.
    assert frechet_distance(a, b) == pytest.approx(2 * 9 + 2 * 1, rel=0.05)
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.0], [1.0]]).double()
    # (xy + 1)^3: inside x 27, inside y 1, between the mean of 8 and 1 without the pairs.
    assert kernel_distance(x, y) == pytest.approx(27 + 1 - 2 * 9 / 2)
    assert kernel_distance(x, x) == 0
    more = torch.cat([y, y])
    # Of another size: inside ten times 1 and twice 8; between the two 1, 8, 1 and 27.
    inside = (10 * 1 + 2 * 8) / 12
    assert kernel_distance(x, more) == pytest.approx(27 + inside - 2 * 37 / 4)


def test_pixels_go_there_and_back() -> None:
    digits = models.load_images("digits").first(20)
    assert np.array_equal(pixels(scaled(digits)).x, digits.x)


def test_picture(tmp_path: Path) -> None:
    draw_rows({"original": _normal(5, 1, 8, 8), "other": _normal(3, 1, 8, 8)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(DataError, match="no images"):
        draw_rows({"original": _normal(0, 1, 8, 8)}, tmp_path / "b.png")


def test_training_learns_and_refuses_another_recipe(tmp_path: Path) -> None:
    digits = models.load_images("digits", train=True).first(64)
    torch.manual_seed(0)
    model, schedule = UNet(20, channels=8), Schedule(20)
    recipe = DiffusionRecipe(epochs=8, batch_size=16, warmup=1, average=0.9)
    rows = train_diffusion(model, digits, schedule, recipe, tmp_path)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert not model.training
    kept = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(kept[k], v) for k, v in model.state_dict().items())
    with pytest.raises(ModelError, match="another recipe"):
        longer = DiffusionRecipe(epochs=9, batch_size=16)
        train_diffusion(model, digits, schedule, longer, tmp_path)
    with pytest.raises(DataError, match="fewer than one batch"):
        train_diffusion(model, digits, schedule, DiffusionRecipe(batch_size=65), tmp_path / "b")


def test_killed_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    digits = models.load_images("digits", train=True).first(32)
    recipe = DiffusionRecipe(epochs=8, batch_size=16, seed=3)

    def trained(folder: Path) -> dict[str, Tensor]:
        model, schedule = models.ddpm_digits("random", seed=3)
        train_diffusion(model, digits, schedule, recipe, folder)
        return model.state_dict()

    command = [
        sys.executable, str(ROOT / "scripts" / "train_ddpm.py"),
        "--output", str(tmp_path / "killed"),
        "--epochs", "8", "--batch-size", "16", "--limit", "32", "--seed", "3", "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "killed" / "log.csv", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not log.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL and "seed 3" in printed
    assert len(log.read_text().splitlines()) < 8
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, undisturbed = trained(tmp_path / "killed"), trained(tmp_path / "undisturbed")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())
