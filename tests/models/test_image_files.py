"""Images in folders and archives: found, labelled, and read when they are wanted."""

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import models
from models import DataError, Preprocessing
from models.data import Loader
from models.image_files import ImageFiles
from models.labelled import Labelled

_PREPARE = Preprocessing(8, (0.0,) * 3, (1.0,) * 3, 3, 8)


def _encoded(value: int, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 255 - value)).save(file, kind)
    return file.getvalue()


# Three classes, whose numbers among five are 4, 0 and 2; the sizes differ.
_FILES = {
    f"{folder}/{number}.png": _encoded(10 * number + i, (9 + number, 12 - number))
    for i, (folder, number) in enumerate([("ant", 4), ("bee", 0), ("cat", 2)])
}


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    deeper = {f"./test/{name}": content for name, content in _FILES.items()}
    rest = {"./test/notes.txt": b"hello", "./test/ant/._4.png": b"hello"}
    return {
        "folder": _folder(tmp_path / "folder", _FILES),
        "tar": _tar(tmp_path / "a.tar", deeper | rest),
        "compressed": _tar(tmp_path / "a.tar.gz", _FILES, "w:gz"),
    }


@pytest.mark.parametrize("kind", ["folder", "tar", "compressed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_every_size(sources: dict[str, Path], kind: str, workers: int) -> None:
    images = models.open_images(sources[kind])
    assert images.classes == ("ant", "bee", "cat") and images.y.tolist() == [0, 1, 2]
    images.check_labels(3)
    loader = Loader(images, _PREPARE, 2, workers)
    state = torch.random.get_rng_state()
    batches = list(loader)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [x.shape for x, _ in batches] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    x = torch.cat([x for x, _ in batches])
    assert (x[:, 0] * 255).mean((1, 2)).tolist() == pytest.approx([40, 1, 22])
    assert torch.cat([y for _, y in batches]).tolist() == [0, 1, 2]
    assert torch.equal(loader.first(1)[0], batches[0][0][:1])


def test_only_the_images_of_a_batch_are_read(tmp_path: Path) -> None:
    files = _FILES | {"cat/3.png": b"no image"}
    loader = Loader(models.open_images(_folder(tmp_path / "f", files)), _PREPARE, 1)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    with pytest.raises(DataError, match=r"cat/3\.png can't be decoded"):
        next(batches)
    with pytest.raises(DataError, match=r"^\S*cat/3\.png can't be decoded") as error:
        list(Loader(models.open_images(tmp_path / "f"), _PREPARE, 2, workers=1))
    assert "\n" not in str(error.value)


def test_kinds_of_images(tmp_path: Path) -> None:
    files = {
        f"a/{kind}.{kind}": _encoded(200, kind=kind) for kind in ("bmp", "jpeg", "png", "tiff")
    }
    images = models.open_images(_folder(tmp_path, files))
    for i in range(4):
        assert images.image(i, gray=False)[5, 5].tolist() == pytest.approx([200, 0, 55], abs=3)
        assert images.image(i, gray=True).shape == (10, 12, 1)
    gray = Preprocessing(8, (0.0,), (1.0,), 2, 8)
    assert Loader(images, gray).first(2)[0].shape == (2, 1, 8, 8)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_how_a_class_is_told(sources: dict[str, Path], kind: str, tmp_path: Path) -> None:
    by_name = models.open_images(sources[kind], labels="name")
    assert by_name.y.tolist() == [4, 0, 2] and by_name.classes == ()
    by_name.check_labels(5)
    with pytest.raises(DataError, match=r"0\.\.3"):
        by_name.check_labels(4)
    listed = tmp_path / "classes.txt"
    for text in ("bee\ndog\ncat\nfly\nant\n", "bee the bee\ndog\ncat a cat, kitty\nfly\nant x"):
        listed.write_text(text)
        by_list = models.open_images(sources[kind], labels=str(listed))
        assert by_list.y.tolist() == [4, 0, 2]
        assert by_list.classes == ("bee", "dog", "cat", "fly", "ant")
        by_list.check_labels(5)
    listed.write_text("bee\ndog")
    with pytest.raises(DataError, match="2 class folders are not in"):
        models.open_images(sources[kind], labels=str(listed))
    listed.write_text("bee\nbee\nant\ncat")
    with pytest.raises(DataError, match="3 of them different"):
        models.open_images(sources[kind], labels=str(listed))
    with pytest.raises(DataError, match="no class folders at nowhere"):
        models.open_images(sources[kind], labels="nowhere")


def test_folders_in_order_are_no_classes_of_a_model_with_more(sources: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"3 classes and the model 5.*--labels name"):
        models.open_images(sources["tar"]).check_labels(5)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"ant/0001.png": b"", "ant/0002.png": b""}, "another number"),
        ({"ant/a.png": b""}, "is no number"),
        ({"ant/1.png": b"", "bee/1.png": b""}, "1 class folders have the same number"),
    ],
)
def test_names_that_are_no_class_numbers(tmp_path: Path, files: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        models.open_images(_folder(tmp_path, files), labels="name")


def test_data_with_labels_of_its_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.arange(2))
    assert models.open_images(tmp_path / "a.npz").y.tolist() == [0, 1]
    with pytest.raises(DataError, match="labels of its own"):
        models.open_images(tmp_path / "a.npz", labels="name")


def test_an_archive_with_several_sets(tmp_path: Path) -> None:
    files = {f"train/{name}": content for name, content in _FILES.items()}
    path = _tar(tmp_path / "both.tar", files | {"val/ant/9.png": _encoded(9)})
    with pytest.raises(DataError, match=r"both\.tar:train, .*both\.tar:val"):
        models.open_images(path)
    assert len(models.open_images(f"{path}:train")) == 3
    assert models.open_images(f"{path}:val/").classes == ("ant",)
    with pytest.raises(DataError, match="it has train, val"):
        models.open_images(f"{path}:test")


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "no images in class folders"), ({"a.png": b"x"}, "no images in class folders")],
)
def test_archives_without_images(tmp_path: Path, files: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        models.open_images(_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_damaged_archive(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    path = _tar(tmp_path / "a.tar", {"a/1.png": rng.bytes(9000), "b/2.png": rng.bytes(9000)}, mode)
    path.write_bytes(path.read_bytes()[:12000])
    with pytest.raises(DataError, match="tar archive") as error:
        models.open_images(path)
    assert "\n" not in str(error.value)


def _of_classes(counts: list[int]) -> Labelled:
    y = np.repeat(np.arange(len(counts)), counts)
    return models.Images(np.zeros((len(y), 2, 2, 3), np.uint8), y, "made up")


def test_an_even_draw() -> None:
    images = _of_classes([50, 3, 20, 1])
    drawn = images.sample_evenly(20, seed=1)
    assert Counter(drawn.y.tolist()) == {0: 8, 1: 3, 2: 8, 3: 1}
    assert drawn.y.tolist() == sorted(drawn.y.tolist())
    assert images.sample_evenly(20, seed=1).y.tolist() == drawn.y.tolist()
    few = [tuple(images.sample_evenly(2, seed=s).y) for s in range(20)]
    assert all(len(set(y)) == 2 for y in few) and len(set(few)) > 3
    assert len(images.sample_evenly(999, 0)) == 74
    with pytest.raises(DataError, match="at least one"):
        images.sample_evenly(0, 0)


def test_hidden_and_foreign_files_and_deeper_folders(tmp_path: Path) -> None:
    files = {
        "ant/2.PNG": _encoded(1), "ant/more/still/1.jpeg": _encoded(2), "bee/3.png": _encoded(3),
        "ant/._2.PNG": b"", "ant/.thumbs/4.png": b"", ".cache/5.png": b"", "ant/notes.txt": b"",
        "list.csv": b"", ".DS_Store": b"", "ant/noending": b"",
    }  # fmt: skip
    images = models.open_images(_folder(tmp_path, files))
    assert isinstance(images, ImageFiles)
    assert images.classes == ("ant", "bee") and images.y.tolist() == [0, 0, 1]
    assert [Path(place.name).name for place in images.places] == ["2.PNG", "1.jpeg", "3.png"]
    # Those of torchvision, in its order, which sees what is hidden as well.
    for name in ("ant/._2.PNG", "ant/.thumbs/4.png", ".cache/5.png"):
        (tmp_path / name).unlink()
    (tmp_path / ".cache").rmdir()
    found = [(p.path, y) for p, y in zip(images.places, images.y.tolist(), strict=True)]
    assert found == torchvision.datasets.ImageFolder(str(tmp_path)).samples


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.txt": b""}, "it holds no images"),
        ({"a.png": b"", "b.png": b""}, "2 images lie in it without one"),
        ({"s-0.tar": b""}, r"give its tars as '\S+/\*\.tar'"),
        ({"ant/1.txt": b"", "ant/.1.png": b""}, "it holds no images"),
        ({"ant/1.png": b"", "bee/1.txt": b""}, r"1 class folders hold no image \(bee\)"),
    ],
)
def test_folders_without_images(tmp_path: Path, files: dict, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        models.open_images(_folder(tmp_path, files))
    assert "\n" not in str(error.value)


def test_one_class(tmp_path: Path) -> None:
    images = models.open_images(_folder(tmp_path, {"ant/1.png": _encoded(1)}))
    assert images.y.tolist() == [0] and images.sample_evenly(5, 0).y.tolist() == [0]
    with pytest.raises(DataError, match="1 classes and the model 3"):
        images.check_labels(3)


def test_an_image_is_the_same_by_any_way(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sources["folder"])
    by_link = set(models.open_images(tmp_path / "link").identities())
    assert by_link == set(models.open_images(sources["folder"]).identities())
    kinds = [set(models.open_images(sources[kind]).identities()) for kind in sources]
    assert len(set.union(*kinds)) == 9
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 4, 4, 3), np.uint8), y=np.arange(9))
    one, other = (models.open_images(tmp_path / "a.npz").sample(5, s) for s in (0, 1))
    both = set(one.identities()) & set(other.identities())
    assert len(both) == len(set(one.y) & set(other.y)) > 0


def test_mixed_sizes_where_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="to one size"):
        models.load_images(_folder(tmp_path, _FILES))
    with pytest.raises(DataError, match=r"ant/4\.png can't be decoded .*replace or remove it$"):
        models.load_images(_folder(tmp_path, {"ant/4.png": b"x"}))


def test_a_folder_that_cannot_be_read_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path, {"ant/1.png": _encoded(1), "ant/more/2.png": _encoded(2)})
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"ant/more can't be read: Permission denied"):
        models.open_images(folder)
