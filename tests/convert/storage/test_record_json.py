"""What a network carries beside its graph: the settings of its conversion."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import StorageError, to_spiking
from convert.graph.batch_layout import Layout
from convert.storage.network_json import read_network, write_network
from convert.storage.record_json import read_settings, read_signature


def test_settings_come_back(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(
        small, images, steps="auto", budget=9, seed=3, method="binary", progress=False,
        per_site_steps={"*": 3, "act": 4}, max_pool="first",
    )  # fmt: skip
    document, _ = write_network(snn, {})
    assert read_settings(document["settings"]) == snn.report.settings
    # Programs that don't know the settings read the file: they are no part of the report.
    assert "settings" not in document["report"]
    snn.report.settings = None
    document, _ = write_network(snn, {})
    assert document["settings"] is None and read_settings(None) is None


@pytest.mark.parametrize(
    "data",
    [
        "tbpi",
        [],
        {"steps": 0},
        {"steps": 10**30},
        {"steps": [True]},
        {"speed": 1},
        {"method": None},
        {"seed": {"float": "nan"}},
        {"steps": "auto", "max_loss": {"float": "nan"}},
        {"per_site_steps": {"a": [4, 9]}},
        {"encode": 1},
    ],
)
def test_damaged_settings(data: Any) -> None:
    with pytest.raises(StorageError, match="settings of the conversion are damaged"):
        read_settings(data)


def test_networks_with_the_batch_first_leave_no_word_of_it(
    small: nn.Module, images: Tensor
) -> None:
    snn = to_spiking(small, images, steps=3, method="binary", progress=False)
    document, _ = write_network(snn, {})
    # A program that knows no other axis reads the file.
    assert not {"outputs", "mixes"} & set(document["signature"])
    assert not {"batch_axis", "mixes_batch"} & set(document["report"])
    assert "batch_axis" not in document["settings"]
    assert read_signature(document["signature"]).axes == snn.signature.axes == (0,)


_LAYOUT = {"axis": 1, "before": 1, "after": 3, "mixes": False, "varies": False}


@pytest.mark.parametrize(
    "bad",
    [
        "none",
        [],
        [_LAYOUT, _LAYOUT],
        [7],
        [_LAYOUT | {"axis": True}],
        [_LAYOUT | {"axis": -1}],
        [_LAYOUT | {"axis": 64}],
        [_LAYOUT | {"before": 0}],
        [_LAYOUT | {"after": 2**40}],
        [_LAYOUT | {"mixes": 1}],
        [{"axis": 0}],
    ],
)
def test_layouts_of_outputs_are_checked(bad: Any) -> None:
    signature = {
        "names": ["x"],
        "inputs": [{"name": "x", "shape": [3, None], "dtype": "float32"}],
        "constants": [None],
        "takes": {"list": ["*"]},
        "returns": "*",
        "outputs": [_LAYOUT],
    }
    good = read_signature(signature)
    assert good.axes == (1,) and good.outputs[0].rows == 3
    if bad == []:
        assert read_signature(signature | {"outputs": bad}).outputs == ()
        return
    with pytest.raises(StorageError, match="damaged"):
        read_signature(signature | {"outputs": bad})


def test_layouts_are_those_of_the_graph(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=3, method="binary", progress=False)
    device = torch.device("cpu")
    for layout, fits in ((_LAYOUT, False), (_LAYOUT | {"axis": 0, "after": 1}, True)):
        document, tensors = write_network(snn, {})
        document["signature"]["outputs"] = [layout]
        if fits:
            assert read_network(document, tensors, device).signature.outputs == (Layout(),)
        else:
            with pytest.raises(StorageError, match="elsewhere in the outputs"):
                read_network(document, tensors, device)
