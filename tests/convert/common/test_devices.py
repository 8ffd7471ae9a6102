"""Devices by name, and one line for what is none, or can't be used here."""

import pytest
import torch

from convert import InputError
from convert.common.devices import usable_device


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_what_can_be_used(device: str | torch.device) -> None:
    assert usable_device(device).type == "cpu"


@pytest.mark.parametrize(
    ("device", "named"),
    [
        ("gpu", "no device is called 'gpu'"),
        ("cuda:-1", "no device"),
        ("cpu\n", "no device"),
        ("x" * 10_000, "no device"),
        ("meta", "holds no values"),
        ("fpga", "can't be used here"),
        (7, "name like 'cpu'"),
        (None, "name like 'cpu'"),
        (True, "name like 'cpu'"),
        ("", "name like 'cpu'"),
    ],
)
def test_what_is_no_device(device: object, named: str) -> None:
    with pytest.raises(InputError, match=named) as refused:
        usable_device(device)
    assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [0, 2])
def test_cuda_is_not_there(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError, match="there are 2" if count else "CUDA isn't available"):
        usable_device("cuda:99")
