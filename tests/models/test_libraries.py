"""Models of torchvision and timm by name, and what is refused before any work."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from models import ModelError


def test_torchvisions_models_by_both_names() -> None:
    bare, named = (models.get(n, "random", seed=3) for n in ("resnet18", "torchvision:resnet18"))
    assert not named.training
    for key, value in bare.state_dict().items():
        assert torch.equal(value, named.state_dict()[key])
    assert models.get("torchvision:resnet18", "random", classes=7).fc.out_features == 7


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large"])
def test_segmentation_and_detection_need_no_download(name: str) -> None:
    assert sum(p.numel() for p in models.get(f"torchvision:{name}", "random").parameters()) > 1e6


def test_a_timm_model() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    once, again = (models.get("timm:test_resnet", "random", classes=5, seed=1) for _ in range(2))
    x = torch.rand(2, 3, 64, 64)
    assert once(x).shape == (2, 5) and torch.equal(once(x), again(x))
    assert models.preprocessing("timm:test_resnet").size == 160


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("torchvision:resnt50", {}, "resnet50"),
        ("torchvision:resnet50", {}, "weights=PATH"),
        ("torchvision:resnet50", {"weights": "random", "activation": "silu"}, "has its own"),
        ("torchvision:resnet50", {"weights": "DEFAULT", "classes": 10}, "1000 outputs"),
        ("timm:resnt50", {"weights": "random"}, "resnet50"),
        ("timm:resnet50.nothing_like_it", {"weights": "random"}, "a1_in1k"),
        ("timm:test_resnet", {}, "weights=PATH"),
        ("resnet20", {"weights": "DEFAULT"}, "not from one"),
    ],
)
def test_refusals(name: str, given: dict, said: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(ModelError, match=said) as error:
        models.get(name, **given)
    assert "\n" not in str(error.value)


def test_weights_from_safetensors(tmp_path: Path) -> None:
    model = models.get("resnet20", "random", seed=3)
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    save_file(wrapped, tmp_path / "a.safetensors")
    again = models.get("resnet20", tmp_path / "a.safetensors", seed=4)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    del wrapped[next(iter(wrapped))]
    save_file(wrapped | {"module.other": torch.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"1 missing .*; 1 unexpected \(other\)"):
        models.get("resnet20", tmp_path / "b.safetensors")


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_header_that_begins_like_another_file(tmp_path: Path, length: int) -> None:
    """The first bytes are the header's length: they may be those of a pickle or a zip file."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    content = length.to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"unexpected \(a\)"):
        models.get("resnet20", tmp_path / "a.safetensors")


def test_weights_used_twice_are_saved_once(tmp_path: Path) -> None:
    from models.checkpoints import load_weights

    def tied() -> torch.nn.Module:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, other = tied(), tied()
    kept = {k: v.clone() for k, v in one.state_dict().items() if k != "1.weight"}
    torch.save(kept, tmp_path / "a.pt")
    load_weights(other, tmp_path / "a.pt", "tied")
    assert torch.equal(other[1].weight, one[1].weight)
    del kept["0.weight"]
    torch.save(kept, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="2 missing"):
        load_weights(other, tmp_path / "a.pt", "tied")


@pytest.mark.parametrize(
    ("library", "name", "extra"), [("timm", "timm:x", "timm"), ("transformers", "hf:x", "hf")]
)
def test_a_library_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, library: str, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for call in (models.get, models.preprocessing):
        with pytest.raises(ModelError, match=rf"need {library}; .*fewspikes\[{extra}\]"):
            call(name)
