"""Images as the weights of each library want them."""

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models import ModelError, NoPreprocessingError, Preprocessing

_SIZES = [(300, 400), (500, 333), (280, 280), (64, 90)]


def _pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in _SIZES]


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "vit_b_16"])
def test_images_are_those_of_torchvisions_transforms(name: str) -> None:
    import torchvision

    expected = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for given in (name, f"torchvision:{name}"):
        prepare = models.preprocessing(given)
        assert isinstance(prepare, Preprocessing) and prepare.classes == 1000
        for image in _pictures():
            torch.testing.assert_close(
                prepare(image[None])[0], expected(Image.fromarray(image)), rtol=0, atol=1e-6
            )


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224",
        "tf_efficientnet_lite1",
        "convnext_tiny",
        "vit_base_patch16_clip_224.openai",
    ],
)
def test_images_are_those_of_timms_transforms(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is optional")
    config = timm.data.resolve_data_config(
        {}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict()
    )
    expected, prepare = timm.data.create_transform(**config), models.preprocessing(f"timm:{name}")
    for image in _pictures():
        torch.testing.assert_close(
            prepare(image[None])[0], expected(Image.fromarray(image)), rtol=0, atol=1e-6
        )


def test_both_sides_are_resized_where_asked_for() -> None:
    prepare = Preprocessing(20, (0.0,) * 3, (1.0,) * 3, 10, 24, squash=True)
    image = _pictures()[0]
    expected = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR))
    found = prepare(image[None])[0] * 255
    torch.testing.assert_close(found.permute(1, 2, 0).numpy(), expected[2:22, 2:22].astype("f4"))


def test_a_gray_image_is_cropped_too() -> None:
    prepare = Preprocessing(8, (0.0,), (1.0,), 10, 8)
    image = np.arange(16 * 8, dtype=np.uint8).reshape(16, 8, 1)
    torch.testing.assert_close(
        prepare(image[None])[0, 0] * 255, torch.from_numpy(image[4:12, :, 0]).float()
    )


def test_it_goes_into_a_dict_and_back() -> None:
    plain = models.preprocessing("resnet20")
    assert set(plain.to_dict()) == {"size", "mean", "std", "classes"}, "as files before have it"
    for given in (plain, Preprocessing(5, (0.5,), (0.25,), 2, 6, True, "bicubic")):
        assert Preprocessing.from_dict(given.to_dict()) == given
    assert "resize" not in repr(plain) and "resize=256" in repr(models.preprocessing("resnet18"))
    with pytest.raises(ModelError, match="no preprocessing"):
        Preprocessing.from_dict(plain.to_dict() | {"resize": "x"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"resize": 20}, "no square of 24"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"size": 0}, "whole"),
        ({"std": (0.0,)}, "> 0"),
    ],
)
def test_values_that_cannot_be(changed: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Preprocessing(**{"size": 24, "mean": (0.5,), "std": (0.5,), "classes": 3} | changed)


def test_options_in_place_of_the_models_own() -> None:
    base = Preprocessing(224, (0.5,) * 3, (0.5,) * 3, 1000, 256)
    assert models.with_options(base, size=448).resize == 512, "the margin keeps its share"
    changed = models.with_options(base, size=112, resize=112, mean=(0.1,), interpolation="bicubic")
    assert changed == Preprocessing(112, (0.1,) * 3, (0.5,) * 3, 1000, 112, False, "bicubic")
    made = models.with_options(None, size=32, mean=(0.1, 0.2, 0.3), std=(0.5,), classes=7)
    assert made == Preprocessing(32, (0.1, 0.2, 0.3), (0.5,) * 3, 7)
    with pytest.raises(NoPreprocessingError, match="--std --classes"):
        models.with_options(None, size=32, mean=(0.5,))


@pytest.mark.parametrize("name", ["raft_small", "ssdlite320_mobilenet_v3_large", "r3d_18"])
def test_models_that_take_more_than_images(name: str) -> None:
    with pytest.raises(NoPreprocessingError, match="convert it in Python"):
        models.preprocessing(f"torchvision:{name}")
