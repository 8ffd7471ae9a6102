"""What a network carries beside its graph: the settings of its conversion."""

from typing import Any

import pytest
from torch import Tensor, nn

from convert import StorageError, to_spiking
from convert.storage.network_json import write_network
from convert.storage.record_json import read_settings


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
