"""The converted network: called like the original, with its steps, spikes and report."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from ..calibration.histogram import Histogram
from ..calls.batch_reading import BatchReader
from ..calls.call_signature import Signature
from ..common.tracing import traced
from ..errors import InputError
from ..graph.chains import latency_steps
from ..graph.memory_layout import prefers_channels_last
from ..graph.run import module_at
from ..neuron.few_spikes import FewSpikesNeuron
from .bias_shifts import Corrections
from .blocks import Blocks
from .from_file import errors_named
from .input_types import check_types, reader_of
from .late_check import LateCheck
from .original import OriginalModel
from .range_check import OutsideCounter, warn, warn_late
from .report import Report
from .run_plan import Calls, CutNeuron, RunPlan, SiteCall
from .runner import Runner

# A neuron that is as near at -inf, as a share of 1 or of the value, gives the value there.
_ALIKE = 1e-6


class SpikingModel(Blocks):
    """A network whose nonlinear functions are few-spikes neurons.

    What its calls do is changed by blocks (`readout`, `with_steps`, `spiking_only`,
    `count_spikes`, `tally_spikes`, ...). They nest in any order, hold for the thread that entered
    them, and leave the network as it is.

    Args:
        network: graph that calls the neurons as modules; flat inputs and outputs.
        exact: exact functions by the path of the neuron that replaced each.
        signature: how it is called.
        names: path of each neuron by the name of its site.
        report: what became of every operation.
        fitted_as: K that the network's own neurons were fitted as; of a network whose K were
            chosen, the largest, which None stands for.
    """

    def __init__(
        self,
        network: GraphModule,
        exact: dict[str, torch.nn.Module],
        signature: Signature,
        names: dict[str, str],
        report: Report | None = None,
        fitted_as: int | None = None,
    ) -> None:
        super().__init__(names)
        self.network = network
        self.exact = torch.nn.ModuleDict({_key(k): m for k, m in exact.items()})
        last = prefers_channels_last([network, *exact.values()])
        self.signature = dataclasses.replace(signature, channels_last=last)
        self.report = report
        self.check_inputs = True
        # What comes before the names of its sites where it is a part of a model.
        self.called = ""
        # Whether a file holds what runs, which nobody has run yet.
        self.from_file = False
        self._runner: Runner | None = None
        self._range_check = LateCheck()
        # What the layers' biases hold beside the trained values, for every K.
        self.corrections = Corrections()
        # What calibration saw at each site, by its name.
        self.histograms: dict[str, Histogram] = {}
        # The user's own notes; they are saved with the network.
        self.metadata: dict[str, Any] = {}
        self.fitted_as = self._longest(None) if fitted_as is None else fitted_as

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the original model returned them.

        Inputs far outside the calibrated range give a `RangeWarning` that counts the values that
        fell outside, site by site; `check_inputs = False` turns that off. On a GPU only the first
        calls wait for the check; what is found of later ones is warned of by a call after them.

        Raises:
            InputError: for inputs of another number, shape or kind than at conversion, for
                float64 or half precision where the network holds float32 (nothing is cast; a
                network after ``.half()`` takes half precision), or a readout beyond the steps of
                the neurons that run.
        """
        plan = self.plan
        leaves = self._leaves(plan, args, kwargs)
        if not self._to_be_checked(plan):
            return self.signature.unflatten(self._run(leaves, plan))
        beyond, late = self._range_check.inputs_outside(leaves, self.report.input_ranges)
        if late and not beyond:
            warn_late(stacklevel=5)
        if not beyond:
            return self.signature.unflatten(self._run(leaves, plan))
        outside = OutsideCounter(self._ranges(), self._masked())
        watched = dataclasses.replace(plan, watchers=(*plan.watchers, outside))
        outputs = self._run(leaves, watched)
        warn({self.called + site: row for site, row in outside.found.items()}, stacklevel=5)
        return self.signature.unflatten(outputs)

    def _leaves(self, plan: RunPlan, args: Any, kwargs: Any) -> list[Any]:
        def checked() -> list[Any]:
            leaves = self.signature.flatten(args, kwargs)
            check_types(leaves, self.signature, self.network)
            return leaves

        if plan.kept is None:
            return checked()
        return plan.kept.leaves(pytree.tree_leaves((args, kwargs)), checked)

    def reader(self) -> BatchReader:
        """What reads the batches of one data source for this network."""
        ranges = self.report.input_ranges if self.report is not None else ()
        return reader_of(self.network, self.signature, ranges)

    def _to_be_checked(self, plan: RunPlan) -> bool:
        """A cut readout repeats a call that was checked; tracers can't follow the check."""
        wanted = self.check_inputs and plan.check_inputs and self.report is not None
        whole = plan.readout is None or plan.readout == self._longest(plan.fit)
        return wanted and whole and not traced()

    # What a call does.

    def _run(self, leaves: list[Any], plan: RunPlan) -> Any:
        """The network's flat outputs for its flat inputs, as a plan says."""
        if torch.compiler.is_compiling() and plan.plain:
            return self.network(*leaves)
        runner = self._runner
        if runner is None or not runner.fits(self.network, self.corrections.upstream):
            runner = self._runner = self.runner(self.network)
        return self.run_by(runner, self.network, leaves, plan)

    def runner(self, network: GraphModule) -> Runner:
        """What runs a graph of this network's sites.

        Args:
            network: the network, or a part of it.
        """
        exact = {name: self.exact[_key(path)] for name, path in self.names.items()}
        return Runner(network, self.names, exact, self.corrections.upstream)

    def run_by(self, runner: Runner, network: GraphModule, leaves: list[Any], plan: RunPlan) -> Any:
        """A graph's flat outputs for its flat inputs, as a plan says.

        Args:
            runner: from `runner`, for this graph.
            network: the graph.
            leaves: its inputs.
            plan: what is done.

        Raises:
            InputError: for a readout beyond the steps of the neurons that run.
        """
        if plan.readout is not None and plan.readout > (longest := self._longest(plan.fit)):
            raise InputError(
                f"the readout is after step {plan.readout}, but the neurons that run have "
                f"{longest} at most; choose an earlier step, or other neurons by with_steps"
            )
        calls = partial(self._calls, runner, plan)
        tensors = self._replaced(plan) or None
        compiling = torch.compiler.is_compiling()
        named = nullcontext() if compiling else errors_named(self.from_file)
        with named:
            return runner.run(network, leaves, calls, tensors, plain=plan.plain, kept=plan.kept)

    def _calls(self, runner: Runner, plan: RunPlan) -> Calls:
        """What a run calls for each site."""
        plans = plan.of_neurons()
        return tuple(
            SiteCall(site, self._called(site, plan), plans(site), plan.watchers, plan.sizes)
            for site in runner.sites
        )

    def neuron_of(self, site: str, fit: int | None) -> torch.nn.Module:
        """The neuron of a site: the network's own, or that of another K."""
        path = self.names[site]
        if fit is None:
            return module_at(self.network, path)
        return module_at(self.refitted, f"{fit}.{_key(path)}")

    def _masked(self) -> set[str]:
        """Sites whose neuron gives for -inf what the site's function gives: y0."""
        hidden = torch.tensor([-float("inf")], dtype=torch.float64)
        found = set()
        for site, path in self.names.items():
            neuron = self.neuron_of(site, self.plan.fit)
            exact = float(self.exact[_key(path)](hidden))
            if isinstance(neuron, FewSpikesNeuron):
                # -inf lies below all gates.
                gap = abs(float(neuron.offset.view(-1)[0]) - exact)
                if gap <= _ALIKE * max(abs(exact), 1.0):
                    found.add(site)
        return found

    def _called(self, site: str, plan: RunPlan) -> torch.nn.Module:
        """What runs at a site: its neuron of the plan's K, or its exact function."""
        if plan.spikes(site):
            return self.neuron_of(site, plan.fit)
        return self.exact[_key(self.names[site])]

    # Neurons.

    def add_refit(self, steps: int, neurons: Mapping[str, FewSpikesNeuron]) -> None:
        """Keeps neurons of another K beside the network's own.

        Args:
            steps: that K.
            neurons: by the name of their site, one for every site.
        """
        keyed = {_key(self.names[site]): neuron for site, neuron in neurons.items()}
        self.refitted[str(steps)] = torch.nn.ModuleDict(keyed)

    def as_planned(self, plan: RunPlan) -> GraphModule:
        """A copy of the network that by itself does what a plan says; it shares the weights.

        Args:
            plan: what is done; nobody counts, tallies or watches.
        """
        modules = dict(self.network.named_modules())
        memo = {id(tensor): tensor for tensor in self.network.state_dict(keep_vars=True).values()}
        memo |= {id(modules[path]): torch.nn.Identity() for path in self.names.values()}
        network = copy.deepcopy(self.network, memo)
        nobody: dict[str, Any] = {"counters": (), "tallies": (), "watchers": (), "sizes": ()}
        plan = dataclasses.replace(plan, kept=None, **nobody)
        for site, path in self.names.items():
            module = self._called(site, plan)
            if isinstance(module, FewSpikesNeuron) and plan.readout is not None:
                module = CutNeuron(module, plan.readout, plan.corrected)
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, module)
        for path, value in self._replaced(plan).items():
            parent, _, name = path.rpartition(".")
            owner = network.get_submodule(parent)
            if name in owner._parameters:
                learns = self.network.get_parameter(path).requires_grad
                owner._parameters[name] = torch.nn.Parameter(value.detach(), learns)
            else:
                owner._buffers[name] = value
        return network

    def with_exact_functions(self) -> GraphModule:
        """A copy of the network with its exact functions and the biases that training left.

        It shares the weights.
        """
        return self.as_planned(RunPlan(spiking=frozenset()))

    def _replaced(self, plan: RunPlan) -> dict[str, torch.Tensor]:
        """The biases of a run that are not those that the network holds, by path."""
        if plan.fit is None and plan.spiking is None:
            return {}
        fit = self.fitted_as if plan.fit is None else plan.fit
        return self.corrections.replaced(self.network, fit, plan.spiking)

    def original(self) -> torch.nn.Module:
        """The captured network with its exact functions; shares the weights."""
        return OriginalModel(self.with_exact_functions(), self.signature, self.from_file)

    def latency(self) -> int:
        """Time steps of the longest chain of sites; inside `with_steps`, with those neurons."""
        neurons = {self.names[name]: neuron.latency for name, neuron in self.sites.items()}
        return latency_steps(self.network, neurons)

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

    # Files and copies.

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the network to one file that `convert.load` reads without the model's code.

        Blocks around the call change nothing of it.

        Args:
            path: by convention ``*.fsnn``; written whole or not at all.
            metadata: numbers, strings, lists and dicts for the reader; `metadata` if None.

        Raises:
            StorageError: naming the operator or value that a file can't hold.
        """
        from ..storage.file import save

        save(self, path, metadata=metadata)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        spikes: bool = False,
        compact: bool = False,
        limit: int | None = None,
        progress: bool = True,
    ) -> None:
        """Writes the network as one file: NIR where the path ends with ``.nir``, else ONNX.

        ONNX has a free batch size and needs onnx and onnxscript; inside a block such as `readout`,
        what a call does there is exported. NIR has the network's spikes in nodes of its own, and
        needs nir.

        Args:
            path: of the file; written whole or not at all.
            spikes: ONNX gives the spikes of every site, too.
            compact: NIR has one node for each site, for readers that know few-spikes neurons.
            limit: bytes of arrays that a NIR file may have.
            progress: says the size of a NIR file on stderr before it is written.

        Raises:
            ExportError: if a package is missing, or the network has parts that the form lacks.
        """
        from ..exporters.by_ending import export

        export(self, path, spikes=spikes, compact=compact, limit=limit, progress=progress)

    def to_spikingjelly(self) -> GraphModule:
        """The network as a module of SpikingJelly's and PyTorch's parts, which needs no `convert`.

        Raises:
            ExportError: for what only this package knows; see `convert.exporters`.
        """
        from ..exporters.spikingjelly import to_spikingjelly

        return to_spikingjelly(self)

    def __reduce__(self) -> Any:
        """For pickle, `torch.save` and processes that are spawned: the network's own safe format.

        What may be trained and the mode travel along, hooks don't.
        """
        from ..storage.file import pickled

        return pickled(self)

    def __copy__(self) -> SpikingModel:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__, _blocks=0)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> SpikingModel:
        # The report names nodes of the graph: they become those of the copy.
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        memo |= {id(shared): shared for shared in (self.report, self.signature)}
        given = {**self.__dict__, "_runner": None, "_blocks": 0}
        copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in given.items()})
        if self.report is not None:
            copied.report = self.report.of_graph(copied.network.graph)
        return copied


def _key(path: str) -> str:
    """A neuron's name without the path of its owner."""
    return path.rpartition(".")[2]
