"""Shards with a label beside each image, one or several by a pattern; and compressed archives."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models import DataError, Preprocessing, archives
from models.data import Loader
from models.image_files import ImageFiles

_PREPARE = Preprocessing(8, (0.0,) * 3, (1.0,) * 3, 10, 8)


def _encoded(value: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9 + value % 5, 14 - value % 3), (value, value, value)).save(file, kind)
    return file.getvalue()


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _sample(key: str, value: int, label: object, ending: str = "jpg") -> dict[str, bytes]:
    # In a library's order: by name.
    return {f"{key}.cls": str(label).encode(), f"{key}.{ending}": _encoded(value)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two images each, with the classes 4, 0, 2, 2, 4, 9."""
    pytest.importorskip("webdataset", reason="webdataset is optional")
    labels = [4, 0, 2, 2, 4, 9]
    for shard in range(3):
        files: dict[str, bytes] = {"__index__/x.jpg": b"", ".hidden/1.jpg": b""}
        for i in (2 * shard, 2 * shard + 1):
            files |= _sample(f"val/{i:04d}", 30 * i, f"{labels[i]}\n", "JPG" if i % 2 else "jpg")
            files |= {f"val/{i:04d}.json": b"{}", f"val/{i:04d}.seg.png": b"x"}
        _tar(tmp_path / f"s-{shard:02d}.tar", files)
    return tmp_path


@pytest.mark.parametrize("pattern", ["s-{00..02}.tar", "s-*.tar", "s-0[0-2].tar", "s-0{0,1,2}.tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_shards(shards: Path, pattern: str, workers: int) -> None:
    images = models.open_images(f"{shards}/{pattern}")
    assert images.y.tolist() == [4, 0, 2, 2, 4, 9] and images.classes == ()
    images.check_labels(10)
    batches = list(Loader(images, _PREPARE, 4, workers))
    assert [y.tolist() for _, y in batches] == [[4, 0, 2, 2], [4, 9]]
    brightness = torch.cat([x for x, _ in batches]).mean((1, 2, 3)) * 255
    assert brightness.tolist() == pytest.approx([0, 30, 60, 90, 120, 150], abs=1)
    drawn = images.sample_evenly(4, seed=0)
    assert sorted(drawn.y.tolist()) == [0, 2, 4, 9]


def test_one_shard_and_a_joined_list(shards: Path) -> None:
    assert models.open_images(shards / "s-01.tar").y.tolist() == [2, 2]
    joined = f"{shards}/s-02.tar::{shards}/s-00.tar"
    assert models.open_images(joined).y.tolist() == [4, 9, 4, 0]
    with pytest.raises(DataError, match="labels of its own"):
        models.open_images(shards / "s-01.tar", labels="name")


def test_the_index_decodes_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = archives.Place.read
    monkeypatch.setattr(archives.Place, "read", lambda place: pytest.fail("an image was read"))
    images = models.open_images(f"{shards}/s-*.tar")
    assert len(images.sample_evenly(3, 0)) == 3
    monkeypatch.setattr(archives.Place, "read", read)
    assert images.image(0, gray=False).shape == (14, 9, 3)


def test_patterns_that_name_nothing(shards: Path) -> None:
    for pattern in ("t-*.tar", "s-{00..03}.tar", "s-00.tar::t-00.tar"):
        with pytest.raises(DataError, match=r"no data at .*there is no file") as error:
            models.open_images(f"{shards}/{pattern}")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no local file"):
        models.open_images("https://example.org/s-{00..03}.tar")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"1.jpg": b"", **_sample("2", 2, 0)}, r"the sample 1 has no label; .* file 1\.cls"),
        (_sample("2", 2, "cat"), r"the label b'cat'; it must be a class number"),
        ({"1.cls": b"0"}, "the sample 1 has 0 images"),
        ({"1.png": b"", **_sample("1", 2, 0)}, "the sample 1 has 2 images"),
        ({"1.JPG": b"", **_sample("1", 2, 0)}, "is no shard .*duplicate"),
        ({"1.cls": b"0", **_sample("2", 2, 0), "1.jpg": b""}, "the sample 1 has 0 images"),
    ],
    ids=["no label", "no number", "no image", "two images", "twice", "not side by side"],
)
def test_shards_that_are_none(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    pytest.importorskip("webdataset", reason="webdataset is optional")
    with pytest.raises(DataError, match=said) as error:
        models.open_images(_tar(tmp_path / "a.tar", files))
    assert "\n" not in str(error.value)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    path = _tar(tmp_path / "a.tar", _sample("1", 2, 0))
    for source in (path, f"{tmp_path}/*.tar"):
        with pytest.raises(DataError, match=r"pip install 'fewspikes\[shards\]'"):
            models.open_images(source)


def test_several_tars_of_class_folders(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="webdataset is optional")
    for i, folder in enumerate("ba"):
        _tar(tmp_path / f"{i}.tar", {f"{folder}/{n}.jpg": _encoded(9 * n) for n in range(2)})
    images = models.open_images(f"{tmp_path}/?.tar")
    assert images.classes == ("a", "b") and images.y.tolist() == [0, 0, 1, 1]
    assert len(set(images.identities())) == 4


def test_a_compressed_archive_is_read_once_in_its_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{n}.png" for n in range(4) for folder in "ca"]
    files = {name: _encoded(20 * i, "PNG") for i, name in enumerate(names)}
    plain = models.open_images(_tar(tmp_path / "a.tar", files))
    images = models.open_images(_tar(tmp_path / "a.tar.gz", {"x.txt": b"x", **files}, "w:gz"))
    assert isinstance(images, ImageFiles) and isinstance(plain, ImageFiles)
    same = plain.sample_evenly(6, 3), images.sample_evenly(6, 3)
    assert {p.name for p in same[0].places} == {p.name for p in same[1].places}
    opened: list[object] = []
    real = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(a) or real(*a, **k))
    drawn = same[1]
    for _ in range(2):
        for x, y in Loader(drawn, _PREPARE, 4):
            at = [names.index(p.name) for p in drawn.places][: len(y)]
            assert ((x.mean((1, 2, 3)) * 255).round() == 20 * torch.tensor(at)).all()
            assert y.tolist() == [int(names[i].startswith("c")) for i in at]
            break
    list(Loader(drawn, _PREPARE, 4))
    assert len(opened) == 3, "a pass over the images is one over the archive"
    two = [torch.cat([x for x, _ in Loader(drawn, _PREPARE, 2, n)]) for n in (0, 2)]
    assert torch.equal(*two)


def test_a_compressed_archive_that_is_replaced_meanwhile(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar.gz", {"a/1.png": _encoded(1, "PNG")}, "w:gz")
    images = models.open_images(path)
    _tar(path, {"a/2.png": _encoded(1, "PNG")}, "w:gz")
    with pytest.raises(DataError, match="it has changed"):
        images.image(0, gray=False)


def test_labels_are_whole_numbers(shards: Path) -> None:
    assert models.open_images(f"{shards}/s-*.tar").y.dtype == np.int64
