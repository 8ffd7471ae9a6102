"""The converted network: called like the original, with its steps, spikes and report."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch.fx import GraphModule

from ..calibration.histogram import Histogram
from ..errors import InputError, SiteError
from ..graph.call_signature import Signature
from ..graph.memory_layout import prefers_channels_last
from ..neuron.few_spikes import FewSpikesNeuron
from .bias_shifts import Corrections
from .buffer_reuse import Program, frugal, in_two
from .range_check import Outside, counting_outside, inputs_outside, warn


class SiteMap(Mapping[str, FewSpikesNeuron]):
    """Neurons by the name of their site, in graph order."""

    def __init__(self, neurons: dict[str, FewSpikesNeuron]) -> None:
        self._neurons = neurons

    def __getitem__(self, name: str) -> FewSpikesNeuron:
        if name not in self._neurons:
            near = get_close_matches(name, self._neurons, 3, 0.3) or list(self._neurons)[:3]
            raise SiteError(f"no site is called {name!r}; there are e.g. {', '.join(near)}")
        return self._neurons[name]

    def __contains__(self, name: object) -> bool:
        return name in self._neurons

    def __iter__(self) -> Iterator[str]:
        return iter(self._neurons)

    def __len__(self) -> int:
        return len(self._neurons)


class SpikingModel(torch.nn.Module):
    """A network whose nonlinear functions are few-spikes neurons.

    Args:
        network: graph that calls the neurons as modules; flat inputs and outputs.
        exact: exact functions by the path of the neuron that replaced each.
        signature: how it is called.
        names: path of each neuron by the name of its site.
        report: what became of every operation.
    """

    # K that the network was fitted as; of a network whose K were chosen, the largest.
    fitted_as: int | None = None

    def __init__(
        self,
        network: GraphModule,
        exact: dict[str, torch.nn.Module],
        signature: Signature,
        names: dict[str, str],
        report: Any = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.exact = torch.nn.ModuleDict({k.rpartition(".")[2]: m for k, m in exact.items()})
        last = prefers_channels_last([network, *exact.values()])
        self.signature = dataclasses.replace(signature, channels_last=last)
        self.names = names
        self.report = report
        self.check_inputs = True
        self._program: Program | None = None
        self._parts: tuple[Callable[..., Any], Program] | None = None
        # Inside `repeated`: the flat inputs, and what comes of them before every neuron.
        self._kept: dict[str, Any] | None = None
        # Neurons of the same sites fitted with other K, by str(K) and by neuron path as in `exact`.
        self.refitted = torch.nn.ModuleDict()
        # What the layers' biases hold beside the trained values, for every K.
        self.corrections = Corrections()
        # What calibration saw at each site, by its name.
        self.histograms: dict[str, Histogram] = {}
        # The user's own notes; they are saved with the network.
        self.metadata: dict[str, Any] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the original model returned them.

        Inputs far outside the calibrated range give a `RangeWarning` that counts the values that
        fell outside, site by site; `check_inputs = False` turns that off.

        Raises:
            InputError: for inputs of another number, shape or kind than at conversion.
        """
        leaves = self._leaves(args, kwargs)
        if not self._to_be_checked() or not inputs_outside(leaves, self.report.input_ranges):
            return self.signature.unflatten(self._run(leaves))
        with self.count_outside() as found:
            outputs = self._run(leaves)
        warn(found, stacklevel=5)
        return self.signature.unflatten(outputs)

    def _run(self, leaves: list[Any]) -> Any:
        """The network on flat inputs, in as little memory as gradients and hooks allow.

        With gradients an operation may have kept what it gave; a hook may keep what it sees. A
        neuron that is called alone never writes over its input.
        """
        modules = [self.network.get_submodule(path) for path in self.names.values()]
        if _watched([self.network, *modules]):
            return self.network(*leaves)
        program, inputs = self._prepared(leaves)
        neurons = [
            module
            for path, module in zip(self.names.values(), modules, strict=True)
            if path in program.overwritable and isinstance(module, FewSpikesNeuron)
        ]
        for neuron in neurons:
            neuron.in_place = True
        try:
            return program.run(self.network, *inputs)
        finally:
            for neuron in neurons:
                neuron.in_place = False

    def _leaves(self, args: Any, kwargs: Any) -> list[Any]:
        if self._kept is None:
            return self.signature.flatten(args, kwargs)
        if "leaves" not in self._kept:
            self._kept["leaves"] = self.signature.flatten(args, kwargs)
        return list(self._kept["leaves"])

    def _prepared(self, leaves: list[Any]) -> tuple[Program, list[Any]]:
        """What to run, and on what: the whole network, or what `repeated` didn't keep."""
        graph, paths = self.network.graph, self.names.values()
        if self._kept is None:
            if self._program is None:
                self._program = frugal(graph, paths)
            return self._program, leaves
        if self._parts is None:
            self._parts = in_two(graph, paths)
        head, rest = self._parts
        if "values" not in self._kept:
            self._kept["values"] = head(self.network, *leaves)
        return rest, [*leaves, *self._kept["values"]]

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Says that every call inside the block has the same inputs, whatever the neurons do.

        What comes before the first neurons is computed once.
        """
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _to_be_checked(self) -> bool:
        """A cut readout repeats a call that was checked; a compiler can't follow the check."""
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return self.check_inputs and self.report is not None and not traced

    @contextmanager
    def count_outside(self) -> Iterator[dict[str, Outside]]:
        """Counts, inside the block, the values of every site outside its calibrated range.

        The yielded dict is filled by site name as the network runs; see `Outside`.
        """
        ranges = {row.name: (row.low, row.high) for row in self.report.sites}
        with counting_outside(self.sites, ranges) as found:
            yield found

    def __deepcopy__(self, memo: dict[int, Any]) -> SpikingModel:
        # The report names nodes of the graph: they become those of the copy.
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        memo |= {id(shared): shared for shared in (self.report, self.signature)}
        copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        if self.report is not None:
            copied.report = self.report.of_graph(copied.network.graph)
        return copied

    @property
    def sites(self) -> SiteMap:
        """The neuron of every site."""
        return SiteMap({n: self.network.get_submodule(p) for n, p in self.names.items()})  # type: ignore[misc]

    @property
    def steps(self) -> int:
        """The largest K of a neuron."""
        return max(neuron.steps for neuron in self.sites.values())

    def _swapped(self, path: str, module: torch.nn.Module) -> torch.nn.Module:
        """Puts another module where a neuron is; returns what was there."""
        parent, _, name = path.rpartition(".")
        owner = self.network.get_submodule(parent)
        before = getattr(owner, name)
        setattr(owner, name, module)
        return before

    def add_refit(self, steps: int, neurons: Mapping[str, FewSpikesNeuron]) -> None:
        """Keeps neurons of another K beside the network's own.

        Args:
            steps: that K.
            neurons: by the name of their site, one for every site.
        """
        keyed = {self.names[site].rpartition(".")[2]: neuron for site, neuron in neurons.items()}
        self.refitted[str(steps)] = torch.nn.ModuleDict(keyed)

    @contextmanager
    def with_steps(self, steps: int) -> Iterator[None]:
        """Uses the neurons that were fitted for another K inside the block, or its own.

        Raises:
            InputError: if the network wasn't fitted for it.
        """
        if str(steps) not in self.refitted:
            if steps == self.steps:
                yield
                return
            fitted = ", ".join([str(self.steps), *self.refitted])
            raise InputError(
                f"the network was fitted for K = {fitted}, not for {steps!r}; name every K in "
                "steps= at conversion"
            )
        neurons = self.refitted[str(steps)]
        replaced = {
            path: self._swapped(path, neurons[path.rpartition(".")[2]])  # type: ignore[index]
            for path in self.names.values()
        }
        try:
            with self.corrections.using(self.network, steps):
                yield
        finally:
            for path, neuron in replaced.items():
                self._swapped(path, neuron)

    @contextmanager
    def spiking_only(self, sites: Collection[str]) -> Iterator[None]:
        """Lets only these sites spike inside the block; all others compute exactly.

        Raises:
            SiteError: for a site that doesn't exist.
        """
        for name in sites:
            self.sites[name]
        replaced = {
            path: self._swapped(path, self.exact[path.rpartition(".")[2]])
            for name, path in self.names.items()
            if name not in sites
        }
        try:
            with self.corrections.only(self.network, sites):
                yield
        finally:
            for path, neuron in replaced.items():
                self._swapped(path, neuron)

    def original(self) -> torch.nn.Module:
        """The captured network with its exact functions; shares the weights."""
        modules = dict(self.network.named_modules())
        memo = {id(tensor): tensor for tensor in self.network.state_dict(keep_vars=True).values()}
        memo |= {id(modules[path]): torch.nn.Identity() for path in self.names.values()}
        network = copy.deepcopy(self.network, memo)
        for path in self.names.values():
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, self.exact[name])
        self.corrections.take_out(self.network, network)
        return OriginalModel(network, self.signature)

    @contextmanager
    def readout(self, step: int | None, *, corrected: bool = True) -> Iterator[None]:
        """Cuts every neuron after its first `step` steps inside the block (an anytime readout).

        Args:
            step: 1..K, or None for all.
            corrected: adds the calibrated mean of what the missing steps would have added.

        Raises:
            InputError: if step isn't a whole number in 1..K.
        """
        if step is not None and (isinstance(step, bool) or step != int(step) or step < 1):
            raise InputError(f"step must be a whole number from 1 to {self.steps}, found {step!r}")
        neurons = list(self.sites.values())
        before = [(n.readout_step, n.readout_corrected) for n in neurons]
        checked, self.check_inputs = (
            self.check_inputs,
            self.check_inputs and step in (None, self.steps),
        )
        try:
            for neuron in neurons:
                neuron.readout_step, neuron.readout_corrected = step, corrected
            yield
        finally:
            self.check_inputs = checked
            for neuron, (old, flag) in zip(neurons, before, strict=True):
                neuron.readout_step, neuron.readout_corrected = old, flag

    def unfreeze(self, *, weights: bool = True, neurons: bool = False) -> SpikingModel:
        """Makes the network trainable; freeze it again by ``requires_grad_(False)``.

        Args:
            weights: those of the synaptic layers.
            neurons: thresholds, resets and output weights of the neurons, which become parameters.
        """
        own = {id(p) for neuron in self.sites.values() for p in neuron.parameters()}
        for parameter in self.network.parameters():
            if weights and parameter.is_floating_point() and id(parameter) not in own:
                parameter.requires_grad_()
        for neuron in self.sites.values() if neurons else ():
            neuron.unfreeze()
        return self

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the network to one file that `convert.load` reads without the model's code.

        Args:
            path: by convention ``*.fsnn``; written whole or not at all.
            metadata: numbers, strings, lists and dicts for the reader; `metadata` if None.

        Raises:
            StorageError: naming the operator or value that a file can't hold.
        """
        from ..storage.file import save

        save(self, path, metadata=metadata)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes the network as one ONNX file with a free batch size; needs onnx and onnxscript.

        Raises:
            ExportError: if a package is missing, or the network has an operator that ONNX lacks.
        """
        from ..storage.onnx_file import export

        export(self, path)

    @contextmanager
    def count_spikes(self) -> Iterator[dict[str, int]]:
        """Counts spikes inside the block; the yielded dict is filled by site when it ends."""
        counts: dict[str, int] = {}
        for neuron in self.sites.values():
            neuron.counting, neuron.spike_count = True, 0
        try:
            yield counts
        finally:
            for name, neuron in self.sites.items():
                neuron.counting = False
                counts[name] = neuron.spike_count


def _watched(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether somebody follows the run: autograd, a compiler, a dispatch mode, a hook."""
    return (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or any(m._forward_hooks or m._forward_pre_hooks for m in modules)
        or bool(torch.nn.modules.module._global_forward_hooks)
        or bool(torch.nn.modules.module._global_forward_pre_hooks)
    )


class OriginalModel(torch.nn.Module):
    """A captured network with its exact functions, called like the model it came from."""

    def __init__(self, network: torch.nn.Module, signature: Signature) -> None:
        super().__init__()
        self.network = network
        self.signature = signature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the model returned them."""
        return self.signature.unflatten(self.network(*self.signature.flatten(args, kwargs)))
