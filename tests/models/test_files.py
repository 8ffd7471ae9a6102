"""What files are that are no checkpoints and no images, and writing them whole."""

import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import DataError, ModelError, Preprocessing
from models.checkpoints import read_checkpoint, write_checkpoint
from models.data import Images
from models.devices import device_named
from models.files import what_is, whole_file


def _files(folder: Path) -> None:
    np.savez(folder / "images.npz", x=np.zeros(3))
    np.save(folder / "array.npy", np.zeros(3))
    torch.save({"a": torch.zeros(3)}, folder / "good.pt")
    torch.save({"a": torch.zeros(3)}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "cut.pt").write_bytes((folder / "good.pt").read_bytes()[:300])
    (folder / "oldcut.pt").write_bytes((folder / "old.pt").read_bytes()[:60])
    (folder / "code.pt").write_bytes(pickle.dumps({"a": Path("b")}))
    (folder / "text").write_text("hello")
    (folder / "page").write_text("\ufeff \n<!DOCTYPE HTML>")
    (folder / "pointer").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "network").write_bytes(b"FSPIKES\n" + bytes(99))
    (folder / "named").write_bytes((99).to_bytes(8, "little") + b'{"a":')
    (folder / "other").write_bytes(bytes(range(99)))
    (folder / "nothing").touch()
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images.npz", "numpy.savez"),
        ("array.npy", "array of numpy"),
        ("cut.pt", "can read"),
        ("oldcut.pt", "can read"),
        ("code.pt", "more than plain weights"),
        ("text", "a text file"),
        ("page", "a web page"),
        ("pointer", "Git LFS"),
        ("network", "snn.save"),
        ("named", "safetensors"),
        ("other", "another kind"),
        ("nothing", "an empty file"),
        ("pipe", "a pipe"),
        (".", "a folder"),
        ("nowhere", "no such file"),
        ("text/under", "Not a directory"),
        ("n" * 300, "too long"),
        ("a\0b", "no such file"),
    ],
    ids=ascii,
)
def test_what_is_no_checkpoint(tmp_path: Path, name: str, said: str) -> None:
    _files(tmp_path)
    with pytest.raises(ModelError, match=said) as refused:
        read_checkpoint(tmp_path / name)
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)
    # Only what could run code is said to be able to.
    assert ("run code" in str(refused.value)) == (name == "code.pt")
    for images in ("text", "page", "nothing", "pipe", "good.pt", "code.pt"):
        with pytest.raises(DataError) as unread:
            models.load_images(tmp_path / images)
        assert "pickle" not in str(unread.value) or images in ("good.pt", "code.pt")


def test_checkpoints_of_both_forms(tmp_path: Path) -> None:
    _files(tmp_path)
    for name in ("good.pt", "old.pt"):
        assert what_is(tmp_path / name) is None
        assert torch.equal(read_checkpoint(tmp_path / name)["a"], torch.zeros(3))


def test_files_are_whole_and_keep_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    (tmp_path / "private").touch(0o600)
    (tmp_path / "link").symlink_to("private")
    for name in ("new/a.pt", "link"):
        write_checkpoint({"a": torch.ones(2)}, tmp_path / name)
        assert read_checkpoint(tmp_path / name)["a"].sum() == 2
    assert (tmp_path / "link").is_symlink()
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("usual", "new/a.pt", "private")]
    assert modes[0] == modes[1] and modes[2] == 0o600
    with pytest.raises(ModelError, match="No space left"), whole_file(tmp_path / "link") as half:
        half.write_text("half")
        raise OSError(28, "No space left on device")
    refused = pytest.raises(DataError, match="usual/under: ")
    with refused, whole_file(tmp_path / "usual" / "under", DataError):
        pass
    assert read_checkpoint(tmp_path / "private")["a"].sum() == 2
    assert not list(tmp_path.rglob(".writing-*"))


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 0},
        {"classes": 0},
        {"mean": (0.5, 0.5)},
        {"std": (0.5,) * 4},
        {"std": (0.0,)},
        {"std": (-1.0,)},
        {"mean": (float("nan"),)},
        {"std": (float("inf"),)},
        {"mean": ()},
    ],
)
def test_preprocessing_that_cannot_be(changed: dict) -> None:
    base = models.preprocessing("resnet20")
    with pytest.raises(ModelError):
        models.with_options(base, **changed)
    with pytest.raises(ModelError):
        Preprocessing.from_dict(base.to_dict() | changed)


def test_one_value_for_all_channels() -> None:
    changed = models.with_options(models.preprocessing("resnet20"), mean=(0.5,), std=(0.25,))
    assert changed.mean == (0.5,) * 3 and changed.std == (0.25,) * 3
    with pytest.raises(ModelError, match="3 channels, and mean and std are for 2"):
        Preprocessing(4, (0.5, 0.5), (1.0, 1.0), 10)(np.zeros((2, 4, 4, 3), np.uint8))
    images = Images(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64), "grey")
    assert Preprocessing(4, (0.5,) * 3, (1.0,) * 3, 10)(images.x).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("name", ["gpu", "meta", "fpga", "cuda:99", "", "x" * 999])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(ModelError, match="device") as refused:
        device_named(name)
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)
