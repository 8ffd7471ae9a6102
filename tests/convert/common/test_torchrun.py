"""What torchrun's variables make of a process."""

import pytest
import torch.distributed as dist

from convert.common.torchrun import process_group, rank
from convert.errors import InputError


def test_one_process_has_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with process_group("cuda:3") as device:
        assert device == "cuda:3" and not dist.is_initialized()
    assert rank() == 0


@pytest.mark.parametrize(
    ("device", "told"), [("cuda:0", "give 'cuda'"), ("cuda", "GPUs here for 200 processes")]
)
def test_gpus_that_would_be_shared_are_refused(
    device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", 199), ("WORLD_SIZE", 200), ("LOCAL_WORLD_SIZE", 200)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_RANK", "199")
    with pytest.raises(InputError, match=told), process_group(device):
        pass
    assert rank() == 199 and not dist.is_initialized()
