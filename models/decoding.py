"""Encoded images as RGB or gray pixels, whatever kind of image they are."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from .errors import DataError
from .files import shown

_JPEG = b"\xff\xd8\xff"
# What Pillow raises for damaged files, its own kinds of errors among them.
_BROKEN = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
)


class CorruptImageError(DataError):
    """An image can't be read or decoded.

    Args:
        name: of the file.
        reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = shown(name), reason

    def __str__(self) -> str:
        return (
            f"{self.name} can't be decoded as an image ({self.reason}); replace or remove it, or "
            "leave such images out with --corrupt skip"
        )


def decoded(content: bytes, name: str, *, gray: bool) -> npt.NDArray[np.uint8]:
    """An image's pixels ``[H, W, C]`` with 3 channels, or 1 where gray is asked for.

    It is turned upright as its EXIF orientation says. Of several pictures in a file the first is
    taken; transparency is left out; values of 16 bits are scaled to 8.

    Args:
        content: of the file.
        name: of the file, for messages.
        gray: whether one channel is wanted.

    Raises:
        CorruptImageError: if it can't be decoded.
    """
    if content.startswith(_JPEG):
        # Other kinds are left to Pillow: torchvision ends the process on some damaged PNGs.
        mode = ImageReadMode.GRAY if gray else ImageReadMode.RGB
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        try:
            found = decode_jpeg(buffer, mode, apply_exif_orientation=True)
            return found.permute(1, 2, 0).numpy()
        except (RuntimeError, ValueError):
            pass  # Pillow says better what is wrong, and knows more kinds of JPEG
    try:
        with Image.open(io.BytesIO(content)) as opened:
            upright = ImageOps.exif_transpose(opened)
            picture = _eight_bits(upright, opened.format).convert("RGB")
            array = np.asarray(picture.convert("L") if gray else picture)
    except _BROKEN as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = "it is empty" if not content else reason.partition(" <_io")[0]
        raise CorruptImageError(name, reason[:120]) from error
    return array[..., None] if gray else array


def _eight_bits(picture: Image.Image, kind: str | None) -> Image.Image:
    """A picture whose values have 16 bits with 8; another as it is.

    Raises:
        ValueError: for values of 32 bits, whose range isn't known.
    """
    # Some versions of Pillow read a PNG of 16 bits into 32.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PNG"):
        values = np.asarray(picture).astype(np.int64)
        return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, of no known range")
    return picture
