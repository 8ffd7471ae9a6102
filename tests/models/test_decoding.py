"""Every kind of image as upright RGB or gray pixels, and what is no image in one line."""

import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from models import DataError
from models.decoding import CorruptImageError, decoded

_GRAY = np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)
_RGB = np.stack([_GRAY, _GRAY[::-1], np.roll(_GRAY, 9, 1)], -1)


def _encoded(pixels: Image.Image | np.ndarray, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_kinds_of_files(kind: str) -> None:
    found = decoded(_encoded(_RGB, kind), "a", gray=False)
    assert found.shape == (24, 32, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - _RGB).mean() < 12, "near, where a kind loses something"
    assert decoded(_encoded(_RGB, kind), "a", gray=True).shape == (24, 32, 1)


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LAB"])
def test_colours_that_are_no_rgb(mode: str) -> None:
    if mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        change = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        content = _encoded(ImageCms.applyTransform(Image.fromarray(_RGB), change), "TIFF")
    else:
        palette = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
        kind = "JPEG" if mode == "CMYK" else "PNG"
        content = _encoded(Image.fromarray(_RGB).convert(mode, **palette), kind)
    found = decoded(content, "a", gray=False)
    assert found.shape == (24, 32, 3) and np.abs(found.astype(int) - _RGB).mean() < 4
    assert decoded(content, "a", gray=True).shape == (24, 32, 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_gray_of_any_depth_is_as_bright_as_before(kind: str, bits: int) -> None:
    pixels = {1: _GRAY > 127, 8: _GRAY, 16: _GRAY.astype(np.uint16) * 257}[bits]
    expected = (_GRAY > 127) * 255 if bits == 1 else _GRAY
    for gray in (False, True):
        found = decoded(_encoded(pixels, kind), "a", gray=gray)
        assert (found == expected[..., None]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photo_is_turned_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a quarter turn to the right
    found = decoded(_encoded(_RGB, kind, exif=exif), "a", gray=False)
    assert found.shape == (32, 24, 3)
    assert np.abs(found.astype(int) - np.rot90(_RGB, -1)).mean() < 12


def test_of_several_pictures_the_first_is_taken() -> None:
    first, second = Image.fromarray(_RGB), Image.fromarray(255 - _RGB)
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        content = _encoded(first, kind, save_all=True, append_images=[second])
        found = decoded(content, "a", gray=False)
        assert np.abs(found.astype(int) - _RGB).mean() < 12


_JPEG, _PNG = _encoded(_RGB, "JPEG"), _encoded(_RGB, "PNG")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<html>", "cannot identify image file\\)"),
        (_JPEG[: len(_JPEG) // 2], "[Tt]runcated"),
        (_JPEG[:-2], "[Tt]runcated"),
        (_PNG[: len(_PNG) // 2], "truncated"),
        (_encoded(_GRAY.astype(np.float32), "TIFF"), "no known range"),
    ],
    ids=["nothing", "text", "half a JPEG", "all but the end", "half a PNG", "32 bits"],
)
def test_what_is_no_whole_image(content: bytes, said: str) -> None:
    with pytest.raises(CorruptImageError, match=rf"^b/a\.jpg can't be decoded.*{said}") as error:
        decoded(content, "b/a.jpg", gray=False)
    assert "\n" not in str(error.value) and isinstance(error.value, DataError)
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and again.name == "b/a.jpg"


def test_damaged_files_never_end_the_process() -> None:
    """In a process of its own: torchvision's PNG decoder ends it on some of these."""
    program = f"""
import numpy as np
from models.decoding import CorruptImageError, decoded
bad = 0
for content in ({_JPEG!r}, {_PNG!r}):
    for seed in range(60):
        rng, changed = np.random.default_rng(seed), bytearray(content)
        for _ in range(1 + seed % 4):
            changed[int(rng.integers(60, len(changed)))] = int(rng.integers(256))
        try:
            assert decoded(bytes(changed), "a", gray=False).shape[2] == 3
        except CorruptImageError:
            bad += 1
assert bad > 30, bad
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-500:]
