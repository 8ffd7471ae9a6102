"""A spiking network as an ONNX file: every neuron its K steps in ordinary operators."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ..calls.size_bounds import as_dim
from ..common.files import atomic_path
from ..errors import ExportError
from ..graph.node_facts import captured_batch
from ..network.model import SpikingModel
from .spike_outputs import give_spikes
from .subject import subject

# Larger networks don't fit one protobuf message.
_LARGEST = 2_000_000_000


class _Flat(torch.nn.Module):
    """The tensors that a network takes in, the tensors that it returns out."""

    def __init__(self, snn: SpikingModel, network: GraphModule) -> None:
        super().__init__()
        self.network, self.signature = network, snn.signature

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        given = iter(tensors)
        leaves = [
            constant if tensor is None else next(given)
            for tensor, constant in zip(
                self.signature.inputs, self.signature.constants, strict=True
            )
        ]
        return tuple(leaf for leaf in self.network(*leaves) if isinstance(leaf, Tensor))


def export_onnx(
    snn: SpikingModel, path: str | os.PathLike[str], *, spikes: bool = False, opset: int = 18
) -> None:
    """Writes the network as one ONNX file with a batch size that is free.

    Inputs carry their names at conversion, outputs are ``output0``, ``output1`` ... in the order
    in which the tree of outputs holds them. With `spikes` every site's are outputs, too:
    ``spikes.SITE``, bool ``[K, N, ...]``, and where it has gates ``interval.SITE``, int64
    ``[N, ...]``: K comparisons, which the output is added up of.

    Args:
        snn: the network; what its calls do just now is what is exported.
        spikes: gives the spikes as well; not inside blocks that cut neurons.
        path: by convention ``*.onnx``; written whole or not at all.
        opset: version of the ONNX operator set.

    Raises:
        ExportError: if the exporter isn't installed, the network is too large for one file, or
            has an operator that ONNX lacks.
        InputError: if the folder can't be written to, or for spikes of cut neurons.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"export to ONNX needs {error.name}; run: pip install onnx onnxscript"
        ) from error
    size = sum(t.numel() * t.element_size() for t in snn.network.state_dict().values())
    if size > _LARGEST:
        raise ExportError(f"the network has {size:,} bytes; one ONNX file holds {_LARGEST:,}")
    examples, shapes, names = _inputs(snn)
    network, outputs = _network(snn, spikes)
    training = snn.training
    try:
        with warnings.catch_warnings(), torch.no_grad(), atomic_path(path) as temporary:
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _Flat(snn, network).eval(),
                tuple(examples),
                dynamo=True,
                dynamic_shapes=(tuple(shapes),),
                input_names=names,
                output_names=outputs,
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            program.save(str(temporary), external_data=False)
    except torch.onnx.OnnxExporterError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"the network can't be written as ONNX: {lines[0][:300]}") from error
    finally:
        snn.train(training)


def _network(snn: SpikingModel, spikes: bool) -> tuple[GraphModule, list[str]]:
    """What runs, and the names of its outputs."""
    if spikes:
        taken = subject(snn, "an ONNX file with spikes")
        return taken.network, give_spikes(taken.network, taken.sites)
    names = [f"output{i}" for i in range(snn.signature.out_spec.num_leaves)]
    return snn.as_planned(snn.plan), names


def _inputs(snn: SpikingModel) -> tuple[list[Tensor], list[dict[int, Any]], list[str]]:
    """Example tensors, which of their axes are free, and their names."""
    device = next((t.device for t in snn.state_dict().values()), torch.device("cpu"))
    floats = _float_types(snn)
    size = max(2, captured_batch(snn.network.graph))
    batch = torch.export.Dim("batch", min=1)
    free = {size.name: as_dim(size.name, size.bounds) for size in snn.signature.varying}
    examples, shapes, names = [], [], []
    for described in snn.signature.inputs:
        if described is None:
            continue
        dtype = described.dtype
        if dtype.is_floating_point and floats and dtype not in floats:
            dtype = next(iter(floats))
        shape = described.lengths(size, snn.signature.varying)
        examples.append(torch.zeros(shape, dtype=dtype, device=device))
        shapes.append(
            {
                axis: batch if n is None else free[n]
                for axis, n in enumerate(described.shape)
                if not isinstance(n, int)
            }
        )
        names.append(described.name.replace("[", "_").replace("]", ""))
    return examples, shapes, names


def _float_types(snn: SpikingModel) -> set[torch.dtype]:
    """Of the weights, not of the neurons, which are never cast."""
    paths = tuple(snn.names.values())
    tensors = snn.network.state_dict().items()
    return {t.dtype for n, t in tensors if t.is_floating_point() and not n.startswith(paths)}
