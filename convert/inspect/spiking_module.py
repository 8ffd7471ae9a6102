"""A converted network as a module whose layers get zeros and ones, for counters of other tools."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import InputError
from ..network.model import SpikingModel
from ..neuron.few_spikes import FewSpikesNeuron
from .layer_modules import layer_modules
from .linear_parts import LinearParts
from .simulation import PIECE, outputs_of
from .spike_walk import Fired, SpikeWalk
from .synapses import Connection, Passage, connections
from .trains import Signal, Train, plus, times

# Two factors of a train that are nearer than 1 to this are one, rounded in two ways.
_ALIKE = 2**18


def as_spiking_module(snn: SpikingModel) -> SpikeBySpike:
    """A module that computes what a network computes spike by spike, for counters of other tools.

    Each convolution and each linear layer is a module of torch's own that is called with zeros and
    ones, so that what hooks modules or follows PyTorch's operations can count.

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K.

    Raises:
        InputError: for anything else, a cut readout, or weights that no such module can hold.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(f"as_spiking_module takes a converted network, found {type(snn).__name__}")
    if snn.plan.readout is not None:
        raise InputError("as_spiking_module runs whole neurons; leave the block snn.readout(...)")
    return SpikeBySpike(snn)


class Spikes(nn.Module):
    """What a site sends passes through here: once a tick, zeros and ones ``[N, ...]``."""

    def forward(self, spikes: Tensor) -> Tensor:
        """The spikes themselves."""
        return spikes


class SpikeBySpike(nn.Module):
    """A network that runs spike by spike; called like the network, with the outputs of `simulate`.

    `layers` holds a ``Conv`` or ``Linear`` for each layer. One that gets spikes has no bias and is
    called once for each train (the spikes of one step and interval of a site, of 10 images at
    most); behind a pooling, where several events come to a place in one tick, once for the first
    event of every place, once for the second, and so on. Its results are multiplied by d, and the
    bias is added, outside of it. A layer on other values (the image) is called with them.
    `sites` holds a `Spikes` for each site, called once for each step, and before them with the
    constants of the intervals where there are gates.

    What layers make of constants alone is worked out beside the run, where no counter follows.

    It holds a copy of the network. It isn't made to be saved or trained: the network is
    (`snn.save`, `snn.unfreeze`).

    Attributes:
        layers, sites: by their place in the model, with ``_`` for anything but letters and digits.
        places: the place in the model, or the site, of each module in both.
        left_out: operations with weights that are neither convolution nor linear layer, such as
            factors of channels, by their place: they run, and no counter knows them.
    """

    def __init__(self, snn: SpikingModel) -> None:
        super().__init__()
        plan = snn.plan
        network = copy.deepcopy(snn.network if plan.plain else snn.as_planned(plan))
        self.network = network.eval().requires_grad_(False)
        sites = {path: site for site, path in snn.names.items()}
        spiking = {p: s for p, s in sites.items() if _spikes(network, p)}
        # None of them is a module.
        self._snn = (snn,)
        self._connections = connections(network, spiking)
        layers = layer_modules(network, self._connections)
        names = _unique([self._connections[node].name for node in layers])
        self.layers = nn.ModuleDict(dict(zip(names, layers.values(), strict=True)))
        self._layers = dict(zip(layers, self.layers.values(), strict=True))
        keys = _unique(spiking.values())
        self.sites = nn.ModuleDict({key: Spikes() for key in keys})
        self._sites = dict(zip(spiking.values(), self.sites.values(), strict=True))
        layer_places = [self._connections[node].name for node in layers]
        self.places = {
            **{f"layers.{key}": place for key, place in zip(names, layer_places, strict=True)},
            **{f"sites.{key}": site for key, site in zip(keys, spiking.values(), strict=True)},
        }
        self.left_out = [
            connection.name
            for node, connection in self._connections.items()
            if connection.passage is Passage.WEIGHTS and node not in layers
        ]
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the model returned them.

        Raises:
            InputError: for inputs that the network doesn't take, or no image.
        """
        (snn,) = self._snn
        # How inputs lie in memory doesn't turn on whether somebody counts.
        with _disable_current_modes():
            leaves = snn.signature.flatten(args, kwargs)
            count = snn.signature.images(leaves)
            if not count:
                raise InputError("there is no image to run; give at least one")
            pieces = snn.signature.pieces(leaves, -(-count // PIECE))
        with torch.no_grad():
            ran = [self._walk().run(piece) for piece in pieces]
        with _disable_current_modes():
            return snn.signature.unflatten(outputs_of(snn, [one.outputs for one in ran]))

    def _walk(self) -> _ModuleWalk:
        return _ModuleWalk(self.network, self._connections, self._layers, self._sites)


class _Unwatched:
    """Keeps nothing of a run."""

    def fired(self, connection: Connection, neuron: FewSpikesNeuron, fired: Fired) -> None:
        """Nothing."""

    def wanted(self, site: str) -> bool:
        """None is."""
        return False

    def passed(self, connection: Connection, signals: Iterable[Signal], result: Signal) -> None:
        """Nothing."""


class _ModuleWalk(SpikeWalk):
    """A run that calls modules, and has no fast run beside it.

    Args:
        network, connections: as for `SpikeWalk`.
        layers: by the node.
        sites: by the name.
    """

    def __init__(
        self,
        network: GraphModule,
        connections: Mapping[Node, Connection],
        layers: Mapping[Node, nn.Module],
        sites: Mapping[str, nn.Module],
    ) -> None:
        super().__init__(network, connections, _Unwatched())
        self.layers, self.sites = layers, sites

    def beside(self, node: Node) -> None:
        """There is no fast run."""

    def tell_events(self, result: Signal, neuron: FewSpikesNeuron, fired: Fired) -> None:
        """Others count."""

    def sent(self, site: str, spikes: Tensor) -> Tensor:
        """Spikes that passed through the site's module."""
        passed: Tensor = self.sites[site](spikes)
        return passed

    def along(self, parts: LinearParts, node: Node, train: Train) -> Train:
        """A train behind a route, with the number of events at each place."""
        routed = super().along(parts, node, train)
        with _disable_current_modes():
            count = train.value.double() if train.count is None else train.count
            count = parts.arrivals(node, count)
        return Train(routed.source, routed.tick, routed.weight, routed.value, count)

    def moved(self, parts: LinearParts, node: Node, value: Any) -> Any:
        """A route computes nothing that a chip would."""
        with _disable_current_modes():
            return super().moved(parts, node, value)

    def weighed(self, parts: LinearParts, node: Node, train: Train) -> Any:
        """What the layer's module makes of zeros and ones."""
        layer = self.layers.get(parts.connection.node)
        if layer is None:
            return super().weighed(parts, node, train)
        made = None
        for factor, mask in _planes(train):
            more = layer(mask)
            # One sum, to which the events of all planes add.
            with _disable_current_modes():
                made = plus(made, more if factor is None else times(more, factor))
        return made

    def computed(self, connection: Connection, values: Mapping[Node, Any]) -> Any:
        """What an operation makes of decoded values; a layer's module, with its bias."""
        layer = self.layers.get(connection.node)
        if layer is None:
            return super().computed(connection, values)
        (signal,) = connection.signals
        return layer(values[signal])

    def constant(self, parts: LinearParts, values: Mapping[Node, Any]) -> Any:
        """The same for every image, so it isn't part of what an image costs."""
        with _disable_current_modes():
            return super().constant(parts, values)


def _planes(train: Train) -> Iterator[tuple[Tensor | None, Tensor]]:
    """A train as zeros and ones, with the factor of each: None for 1.

    One plane holds the first event of every place, the next one the second, and so on; events with
    different factors don't share a plane.
    """
    value, count = train.value, train.count
    with _disable_current_modes():
        planes = [(None, value)] if count is None else list(_split(value, count))
    yield from planes


def _split(value: Tensor, count: Tensor) -> Iterator[tuple[Tensor | None, Tensor]]:
    if torch.equal(value.double(), count) and bool((count <= 1).all()):
        yield None, value
        return
    count = count.round()
    there = count > 0
    if not bool(there.any()):
        yield None, torch.zeros_like(value)
        return
    factors = torch.where(there, value.double() / count.clamp_min(1), 0.0)
    mantissa, exponent = torch.frexp(factors)
    keys = torch.ldexp((mantissa * _ALIKE).round(), exponent)
    for key in keys[there].unique():
        inside = there & (keys == key)
        factor = factors[inside].median().to(value.dtype)
        for nth in range(int(count[inside].max())):
            yield factor, (inside & (count > nth)).to(value.dtype)


def _spikes(network: GraphModule, path: str) -> bool:
    return isinstance(network.get_submodule(path), FewSpikesNeuron)


def _unique(places: Iterable[str]) -> list[str]:
    """Names for modules, each once."""
    found: list[str] = []
    for place in places:
        name = plain = re.sub(r"\W+", "_", place).strip("_") or "network"
        number = 2
        while name in found or hasattr(nn.ModuleDict, name):
            name, number = f"{plain}_{number}", number + 1
        found.append(name)
    return found
