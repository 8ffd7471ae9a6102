"""Networks, checkpoints, images and training."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import DataError, ModelError
from models.data import Images, Loader
from models.training import Recipe, accuracy_of, train


def test_names_and_their_preprocessing() -> None:
    assert {"resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18"} <= set(
        models.names()
    )
    for name in models.names():
        chosen = models.preprocessing(name)
        assert chosen.classes > 1
        assert isinstance(chosen, models.TextPreprocessing) or chosen.size > 0


@pytest.mark.parametrize(("name", "convolutions"), [("resnet20", 19), ("resnet56", 55)])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_cifar_resnets(name: str, convolutions: int, activation: str) -> None:
    model = models.get(name, "random", activation).eval()
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == convolutions
    kind = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU}[activation]
    assert any(isinstance(m, kind) for m in model.modules())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_unknown_name_or_activation() -> None:
    with pytest.raises(ModelError, match="resnet20"):
        models.get("resnet21", "random")
    with pytest.raises(ModelError, match="silu"):
        models.get("resnet20", "random", "swishy")


def test_checkpoint_of_a_parallel_model(tmp_path: Path) -> None:
    model = models.get("resnet20", "random", seed=3)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}
    torch.save(wrapped, tmp_path / "a.th")
    again = models.get("resnet20", tmp_path / "a.th")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    with pytest.raises(ModelError, match=r"layer1\.3"):
        models.get("resnet32", tmp_path / "a.th")


def test_pretrained_accuracy(shared: Path) -> None:
    model = models.get("resnet20", shared / "checkpoints" / "resnet20-12fca82f.th").eval()
    test = models.load_images(shared / "data" / "cifar10_test1000.npz")
    correct = total = 0
    with torch.no_grad():
        for x, y in Loader(test, models.preprocessing("resnet20")):
            correct, total = correct + int((model(x).argmax(1) == y).sum()), total + len(y)
    assert correct / total == pytest.approx(0.915)


def _images(count: int = 40) -> Images:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, count)
    x = rng.integers(0, 60, (count, 8, 8, 1)) + 18 * y[:, None, None, None]
    return Images(x.astype(np.uint8), y, "made up")


def test_folder_of_class_folders(tmp_path: Path) -> None:
    from PIL import Image

    for name, value in (("cat", 10), ("ant", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (32, 32), (value, 0, 0)).save(tmp_path / name / f"{i}.png")
    found = models.load_images(tmp_path)
    assert found.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.x[0, 0, 0].tolist() == [200, 0, 0]
    assert found.classes == ("ant", "cat") and found.limited(2).y.tolist() == [0, 1]
    for _ in range(2):
        assert models.load_images(tmp_path, cache=tmp_path.parent / "kept").classes == found.classes
    with pytest.raises(DataError, match="nothing"):
        models.load_images(tmp_path / "nothing")


def test_a_limit_on_sorted_images_leaves_no_class_out() -> None:
    x = np.zeros((60, 2, 2, 3), np.uint8)
    by_class = Images(x, np.repeat([4, 0, 2], [30, 20, 10]), "sorted", ("a", "b", "c"))
    few = by_class.limited(12)
    assert few.y.tolist() == [4] * 6 + [0] * 4 + [2] * 2 and few.classes == by_class.classes
    assert len(by_class.limited(None)) == len(by_class.limited(99)) == 60
    assert by_class.first(3).y.tolist() == [4] * 3
    # What is mixed keeps its order: the first images.
    mixed = Images(x, np.tile([1, 0, 2], 20), "mixed")
    assert mixed.limited(7).y.tolist() == mixed.y[:7].tolist()
    with pytest.raises(DataError, match="at least one"):
        by_class.limited(0)


def test_training_is_seeded_and_learns(tmp_path: Path) -> None:
    preprocessing = models.preprocessing("resnet8_digits")

    def trained(folder: str) -> torch.nn.Module:
        model = models.get("resnet8_digits", "random", seed=0)
        recipe = Recipe(epochs=3, batch_size=20, augmentation="none", seed=0)
        train(model, _images(200), preprocessing, recipe, tmp_path / folder)
        return model.eval()

    once, again = trained("a"), trained("b")
    for key, value in once.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert accuracy_of(once, _images(200), preprocessing) > 0.2


def test_a_batch_is_normalised() -> None:
    preprocessing = models.preprocessing("resnet20")
    x = np.full((2, 32, 32, 3), 255, np.uint8)
    ((batch, labels),) = Loader(Images(x, np.array([1, 2]), "white"), preprocessing)
    expected = (1 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    torch.testing.assert_close(batch[0, :, 0, 0], expected)
    assert labels.tolist() == [1, 2]
