"""A spiking network as a JSON document and named tensors, and back, without running anything."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from ..calls.call_signature import Signature
from ..errors import StorageError
from ..graph.node_facts import captured_batch, mark_sizes
from ..graph.region_function import ExactFunction
from ..network.bias_shifts import Corrections, Shifts
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .graph_json import check_name, infer, read_graph, write_graph
from .record_json import (
    dtype_name,
    dtype_of,
    plain,
    read_histogram,
    read_report,
    read_settings,
    take,
    unplain,
    write_histogram,
    write_report,
    write_settings,
)
from .signature_json import read_signature, write_signature

_NEURON = ("thresholds", "resets", "weights", "offset", "missing_mean")


def versions() -> dict[str, str]:
    """What a file was written with."""
    found = {"python": platform.python_version()}
    for name in ("fewspikes", "torch", "spikingjelly", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_network(
    snn: SpikingModel, metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything about a network as JSON, and its tensors by name.

    Raises:
        StorageError: naming what can't be saved.
    """
    if type(snn) is not SpikingModel:
        raise StorageError(f"only a SpikingModel can be saved, found a {type(snn).__name__}")
    called = set(snn.names.values())
    own = {path: snn.network.get_submodule(path) for path in called}
    beside = {f"K = {k}: {name}": m for k, kept in snn.refitted.items() for name, m in kept.items()}  # type: ignore[operator]
    for name, module in (own | beside).items():
        # A subclass may compute something else, of which a file says nothing.
        if type(module) is not FewSpikesNeuron:
            raise StorageError(
                f"{name} is a {type(module).__name__} and no plain few-spikes neuron; a file holds "
                "those alone, put one back"
            )
    nodes = list(snn.network.graph.nodes)
    tensors: dict[str, Tensor] = {}
    table: dict[str, Any] = {}
    known: dict[tuple[Any, ...], str] = {}
    parameters = {name for name, _ in snn.named_parameters(remove_duplicate=False)}
    for name, tensor in snn.state_dict(keep_vars=True).items():
        table[check_name(name)] = _describe(name, tensor, name in parameters, known, tensors)
    histograms = {}
    for site, histogram in snn.histograms.items():
        numbers, parts = write_histogram(histogram)
        histograms[site] = numbers
        for key, part in parts.items():
            tensors[f"histograms/{site}/{key}"] = part
    document: dict[str, Any] = {
        "versions": versions(),
        "metadata": plain(metadata, "the metadata"),
        "signature": write_signature(snn.signature),
        "batch": _batch(snn),
        "network": write_graph(snn.network, called),
        "values": [],
        "fitted_as": snn.fitted_as,
        "sites": [[name, check_name(path)] for name, path in snn.names.items()],
        "step_mode": {path: snn.network.get_submodule(path).step_mode for path in sorted(called)},
        "exact": {key: _function(key, module) for key, module in snn.exact.items()},
        "refitted": {k: list(neurons) for k, neurons in snn.refitted.items()},  # type: ignore[call-overload]
        "corrections": {
            "upstream": {path: sorted(names) for path, names in snn.corrections.upstream.items()},
            "held": dict(snn.corrections.held),
            "shifts": list(snn.corrections.shifts),
        },
        "tensors": table,
        "histograms": histograms,
        "settings": write_settings(snn.report),
        "report": write_report(snn.report, {node: i for i, node in enumerate(nodes)}),
    }
    built, _ = _network(document, dict(tensors), torch.device("cpu"))
    for dtype in _input_types(snn):
        try:
            document["values"] = _infer(built, snn.signature, document["batch"], called, dtype)
        except StorageError as error:
            failure = error
        else:
            document["input_type"] = dtype and dtype_name(dtype)
            return document, tensors
    raise failure


def _input_types(snn: SpikingModel) -> list[torch.dtype | None]:
    """What floating-point inputs may be: as at conversion (None), or what the weights are now."""
    network = snn.network.state_dict(keep_vars=True).items()
    weights = {
        tensor.dtype
        for name, tensor in network
        if tensor.is_floating_point() and not name.startswith(tuple(snn.names.values()))
    }
    return [None, *sorted(weights, key=str)]


def _batch(snn: SpikingModel) -> int:
    """A batch size of which every shape of the graph is known to make sense."""
    return captured_batch(snn.network.graph)


def _describe(
    name: str,
    tensor: Tensor,
    parameter: bool,
    known: dict[tuple[Any, ...], str],
    tensors: dict[str, Tensor],
) -> dict[str, Any]:
    """How a tensor is stored: as it lies in memory, shared ones once."""
    if tensor.layout is not torch.strided or tensor.is_quantized or type(tensor.data) is not Tensor:
        raise StorageError(f"{name} is no plain tensor and can't be saved")
    row = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "parameter": parameter}
    key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, str(tensor.device))
    if tensor.numel() and key in known:
        return row | {"same": known[key]}
    known[key] = name
    shape, strides = tensor.shape, list(tensor.stride())
    plainly = list(torch.empty(shape, device="meta").stride())
    if strides == plainly or not _dense(shape, strides):
        tensors[name] = tensor.detach().to("cpu").contiguous().clone()
        return row
    memory = tensor.detach().as_strided((tensor.numel(),), (1,))
    tensors[name] = memory.to("cpu").clone()
    return row | {"strides": strides}


def _dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor is a whole block of memory, its axes in any order."""
    last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    return math.prod(shape) > 0 and last == math.prod(shape) - 1


def _function(key: str, module: nn.Module) -> dict[str, Any]:
    if not isinstance(module, ExactFunction):
        raise StorageError(f"the exact function {key} can't be saved: {type(module).__name__}")
    return {"dtype": dtype_name(module.dtype), "graph": write_graph(module.region)}


def read_network(document: Any, tensors: dict[str, Tensor], device: torch.device) -> SpikingModel:
    """The network that a document describes; takes what it uses out of `tensors`.

    Raises:
        StorageError: naming what `write_network` wouldn't have written.
    """
    signature = read_signature(take(document, "signature", dict))
    batch = take(document, "batch", int)
    if not 1 <= batch <= 4096:
        raise StorageError(f"the batch size {batch} is damaged")
    network, state = _network(document, tensors, device)
    names = _names(document)
    called = set(names.values())
    kind = take(document, "input_type", str, type(None))
    found = _infer(network, signature, batch, called, kind and dtype_of(kind))
    if found != take(document, "values", list):
        raise StorageError("the shapes inside the graph aren't those that were saved")
    _check_not_empty(network, called)
    _check_layouts(signature, found[-1], batch)
    exact = {}
    for key, entry in take(document, "exact", dict).items():
        region = read_graph(take(entry, "graph", list), nn.Module(), (), device)
        dtype = dtype_of(take(entry, "dtype", str))
        if not dtype.is_floating_point:
            raise StorageError(f"the exact function {key} gives {dtype}")
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if infer(region, [((batch, 3), wide)], batch, ())[-1] != [dtype_name(wide), batch, 3]:
            raise StorageError(f"the exact function {key} isn't elementwise")
        exact[key] = ExactFunction(region, dtype)
    keys = {path.rpartition(".")[2] for path in called}
    if set(exact) != keys or len(keys) != len(called):
        raise StorageError("the exact functions aren't those of the sites")
    model = SpikingModel(network, dict(exact), signature, names)
    model.fitted_as = _fitted_as(document, model)
    for k, members in take(document, "refitted", dict).items():
        if not k.isdecimal() or len(k) > 6 or not isinstance(members, list) or set(members) != keys:
            raise StorageError(f"the neurons for K = {k[:20]!r} aren't those of the sites")
        model.refitted[k] = nn.ModuleDict(
            {member: _neuron(f"refitted.{k}.{member}", state, "s") for member in members}
        )
    if "corrections" in document:
        model.corrections = _corrections(take(document, "corrections", dict), model, state)
    if state:
        raise StorageError(f"the tensor {next(iter(state))} belongs to nothing")
    for name, entry in take(document, "histograms", dict).items():
        kinds = ("cells", "counts", "mass")
        parts = {p: tensors.pop(f"histograms/{name}/{p}", None) for p in kinds}
        if name not in names or any(parts[p] is None for p in kinds[:2]):
            raise StorageError(f"the histogram of {name!r} has no site or no data")
        model.histograms[name] = read_histogram(name, entry, parts)  # type: ignore[arg-type]
    if tensors:
        raise StorageError(f"the tensor {next(iter(tensors))!r} isn't described")
    # An entry of its own: a program that doesn't know it yet can read the file.
    settings = read_settings(document.get("settings"))
    model.report = read_report(document.get("report"), list(network.graph.nodes), settings)
    if model.report is not None and {row.name for row in model.report.sites} != set(names):
        raise StorageError("the sites of the report aren't those of the network")
    model.metadata = unplain(take(document, "metadata", dict))
    return model.requires_grad_(False).eval()


def _fitted_as(document: Any, model: SpikingModel) -> int:
    """K of the network's own neurons; older files say it with their corrections, or not at all."""
    if "fitted_as" in document:
        fitted = take(document, "fitted_as", int)
        if not 1 <= fitted < 10**6:
            raise StorageError(f"K = {fitted} of the network is damaged")
        return fitted
    held = document.get("corrections", {}).get("held", {}).values()
    known = Counter(int(k) for k in held if isinstance(k, str) and k.isdecimal())
    known = known or Counter(neuron.steps for neuron in model.sites.values())
    others = {int(k) for k in document["refitted"] if k.isdecimal()}
    likely = [k for k, _ in known.most_common() if k not in others]
    return likely[0] if likely else model.longest


def _check_not_empty(network: Any, called: set[str]) -> None:
    """Refuses a graph without elements where it needs some; nothing could be done with it."""
    empty = {
        node
        for node in network.graph.nodes
        if isinstance(node.meta.get("val"), Tensor) and node.meta["val"].numel() == 0
    }
    inputs = [node for node in network.graph.nodes if node.op == "placeholder"]
    tensors = [node for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    if tensors and empty >= set(tensors):
        raise StorageError("the inputs of the network have no elements")
    for node in network.graph.nodes:
        if node.op == "call_module" and node in empty and str(node.target) in called:
            raise StorageError(f"the values of the neuron {node.target} have no elements")
        if node.op == "output" and empty >= set(node.all_input_nodes):
            raise StorageError("the outputs of the network have no elements")


def _names(document: Any) -> dict[str, str]:
    """Path of each neuron by the name of its site."""
    pairs = take(document, "sites", list)
    if not pairs or not all(
        isinstance(pair, list) and [type(p) for p in pair] == [str, str] for pair in pairs
    ):
        raise StorageError("the list of sites is damaged")
    names = {name: check_name(path) for name, path in pairs}
    if len(names) < len(pairs) or len(set(names.values())) < len(pairs):
        raise StorageError("a site occurs twice")
    return names


def _network(
    document: Any, tensors: dict[str, Tensor], device: torch.device
) -> tuple[Any, dict[str, tuple[Tensor, bool]]]:
    """The graph with its tensors and neurons, and the tensors that it doesn't take."""
    state = dict(_state(take(document, "tensors", dict), tensors))
    paths = list(_names(document).values())
    modes = take(document, "step_mode", dict)
    root = nn.Module()
    for path in paths:
        neuron = _neuron(f"network.{path}", state, modes.get(path))
        parent, _, name = path.rpartition(".")
        _module(root, parent).add_module(name, neuron)
    parameters: dict[int, nn.Parameter] = {}
    for full in [name for name in state if name.startswith("network.")]:
        tensor, parameter = state.pop(full)
        parent, _, name = full.removeprefix("network.").rpartition(".")
        owner = _module(root, parent)
        if parameter:
            made = nn.Parameter(tensor, requires_grad=False)
            # Weights that were shared are one parameter again.
            owner.register_parameter(name, parameters.setdefault(id(tensor), made))
        else:
            owner.register_buffer(name, tensor)
    return read_graph(take(document, "network", list), root, paths, device), state


def _state(table: Any, tensors: dict[str, Tensor]) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    made: dict[str, Tensor] = {}
    for name, row in table.items():
        shape, dtype = take(row, "shape", list), dtype_of(take(row, "dtype", str))
        same = row.get("same")
        tensor = made.get(same) if isinstance(same, str) else tensors.pop(check_name(name), None)
        if tensor is None:
            raise StorageError(f"the tensor {name} is missing")
        strides = row.get("strides")
        if strides is not None and same is None:
            whole = [type(n) is int and 0 <= n < 2**48 for n in [*shape, *strides]]
            if tensor.dim() != 1 or len(strides) != len(shape) or not all(whole):
                raise StorageError(f"the tensor {name} is described wrongly")
            if math.prod(shape) != tensor.numel() or not _dense(shape, strides):
                raise StorageError(f"the tensor {name} is described wrongly")
            tensor = tensor.as_strided(shape, strides)
        if list(tensor.shape) != shape or tensor.dtype != dtype:
            raise StorageError(
                f"the tensor {name} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {shape}"
            )
        made[name] = tensor
        yield name, (tensor, take(row, "parameter", bool))


def _module(root: nn.Module, path: str) -> nn.Module:
    """The container at a path, made where it is missing."""
    for name in path.split(".") if path else ():
        if name not in root._modules:
            root.add_module(name, nn.Module())
        child = root._modules[name]
        assert child is not None
        root = child
    return root


def _neuron(path: str, state: dict[str, tuple[Tensor, bool]], mode: Any) -> FewSpikesNeuron:
    found = {}
    for name in _NEURON:
        if f"{path}.{name}" not in state:
            raise StorageError(f"the neuron {path} has no {name}")
        found[name], _ = state.pop(f"{path}.{name}")
    gates, _ = state.pop(f"{path}.gates", (None, False))
    dtype = found["thresholds"].dtype
    same = {tensor.dtype for tensor in found.values()} == {dtype}
    if dtype not in (torch.float32, torch.float64) or not same or mode not in ("s", "m"):
        raise StorageError(f"the neuron {path} has a data type or step mode that isn't a neuron's")
    *table, offset, missing = found.values()
    if gates is not None and (gates.dtype != dtype or not gates.numel()):
        raise StorageError(f"the neuron {path} has gates that aren't a neuron's")
    if (
        (offset.dim() and gates is None)
        or missing.shape != table[0].shape
        or not bool(missing.isfinite().all())
    ):
        raise StorageError(f"the neuron {path} has readouts of the wrong shape")
    T, h, d = table
    if gates is not None:
        # Training may have moved one past another; how many lie below a value is all that counts.
        gates = gates.sort().values
    neuron = FewSpikesNeuron(T, h, d, offset, gates, dtype=dtype, step_mode=mode)
    neuron.missing_mean.copy_(missing)
    return neuron


def _corrections(
    data: Any, model: SpikingModel, state: dict[str, tuple[Tensor, bool]]
) -> Corrections:
    upstream, held = take(data, "upstream", dict), take(data, "held", dict)
    for path, names in upstream.items():
        bias = dict(model.network.state_dict()).get(check_name(path))
        if bias is None or not bias.is_floating_point() or not set(names) <= set(model.names):
            raise StorageError(f"the correction of {path!r} belongs to no bias of the network")
        upstream[path] = [name for name in names if isinstance(name, str)]

    def tensors(prefix: str) -> dict[str, Tensor]:
        found = {}
        for index, path in enumerate(upstream):
            bias = model.network.state_dict()[path]
            value, _ = state.pop(f"corrections.{prefix}.{index}", (None, False))
            if value is None or value.shape != bias.shape or value.dtype != bias.dtype:
                raise StorageError(f"the correction of {path} doesn't fit its bias")
            found[path] = value
        return found

    result = Corrections(upstream, tensors("trained"))
    fitted = {str(k) for k in take(data, "shifts", list)}
    for k in fitted:
        if not k.isdecimal() or len(k) > 6:
            raise StorageError(f"there are corrections for K = {k[:20]!r}")
    for k in take(data, "shifts", list):
        result.shifts[k] = Shifts(tensors(f"shifts.{k}"))
    if not set(held) <= set(upstream) or not set(held.values()) <= fitted:
        raise StorageError("the corrections in use are damaged")
    result.held = held
    return result


def _check_layouts(signature: Signature, shown: Sequence[Any], batch: int) -> None:
    """Refuses layouts of the outputs that the graph's outputs don't have."""
    for layout, output in zip(signature.outputs, shown, strict=False):
        if layout is None or layout.axis is None:
            continue
        shape = output[1:] if isinstance(output, list) else []
        if layout.axis >= len(shape) or shape[layout.axis] != batch * layout.rows:
            raise StorageError("the batch lies elsewhere in the outputs; the file is damaged")


def _infer(
    network: Any, signature: Signature, batch: int, called: set[str], dtype: torch.dtype | None
) -> list[Any]:
    """Dtype and shape of every value; floating-point inputs are `dtype` unless that is None."""
    inputs: list[tuple[tuple[int, ...], torch.dtype] | None] = []
    for tensor in signature.inputs:
        if tensor is None:
            inputs.append(None)
            continue
        cast = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
        inputs.append((tensor.lengths(batch, signature.varying), cast))
    outputs = next(iter(reversed(network.graph.nodes))).args[0]
    if not isinstance(outputs, tuple) or len(outputs) != signature.out_spec.num_leaves:
        raise StorageError("the graph doesn't return what the network returns")
    values = infer(network, inputs, batch, called)
    mark_sizes(network.graph, signature.shapes)
    return values
