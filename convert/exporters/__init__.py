"""Networks in forms that others read: SpikingJelly, NIR, ONNX."""

from .by_ending import export
from .nir_file import export_nir, nir_size
from .onnx_file import export_onnx
from .spikingjelly import to_spikingjelly

__all__ = ["export", "export_nir", "export_onnx", "nir_size", "to_spikingjelly"]
