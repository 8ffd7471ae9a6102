"""Networks in forms that others read: SpikingJelly, NIR, ONNX."""

from .spikingjelly import to_spikingjelly

__all__ = ["to_spikingjelly"]
