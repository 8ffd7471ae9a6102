"""Finds modules of torch's int8 backends, which compute with packed weights out of sight."""

from __future__ import annotations

from torch import nn

from ..errors import CaptureError

_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse")
_NAMED = 3


def refuse_int8(model: nn.Module) -> None:
    """Refuses a model with int8 modules.

    Raises:
        CaptureError: naming them.
    """
    found = [
        f"{path or type(module).__name__} ({type(module).__name__})"
        for path, module in model.named_modules()
        if type(module).__module__.startswith(_PACKAGES)
        and hasattr(module, "_packed_params")
        and not path.endswith("_packed_params")
    ]
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise CaptureError(
            f"{type(model).__name__} holds int8 modules: {', '.join(found[:_NAMED])}{more}; "
            "convert the model as it was before it was quantised"
        )
