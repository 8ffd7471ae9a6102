"""What a site's errors and events count for in the whole network: its weight, share and price.

The network makes ``(relative squared error of the outputs) + spike_cost * (events per neuron)``
small. To first order a site adds the squared error of its neuron, weighted with the squared
gradients that calibration saw, and the events of its share of all neurons. So its own price is
spike_cost times that share, in the unit of its own squared error. Neurons that work at several time
steps count once for each.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.fx import GraphModule

from ..calibration.histogram import Histogram
from ..errors import CalibrationError
from ..fitting.problem import Problem, Solution
from ..graph.node_facts import captured_batch, size
from ..sites.find import Site
from .calibrated import Calibrated

Floats = npt.NDArray[np.float64]

# An event is never worth more than this multiple of the function's mean square: nothing fires then.
_DEAREST = 4.0
# A constant below this share of what f varies by isn't worth an event.
_NOTHING = 1e-6


class SpikePrices:
    """Weights and prices of a network's sites.

    Args:
        source: the network.
        spike_cost: price of one event per neuron of the network, in the unit of the outputs'
            relative squared error.

    Attributes:
        elements: output numbers of all calibration images: a site's mass over them is what a mean
            squared error of 1 there adds to the outputs' relative squared error.

    Raises:
        CalibrationError: for a price in a network none of whose sites moves the outputs.
    """

    def __init__(self, source: Calibrated, spike_cost: float) -> None:
        self._source, self._spike_cost = source, spike_cost
        outputs = _outputs(source.captured.graph_module)
        self.elements = max(outputs * source.observed.images, 1)
        self._neurons = sum(source.observed.neurons.values())
        known = any(h.mass.sum() > 0 for h in source.observed.histograms.values())
        if spike_cost and source.sites and not known:
            raise CalibrationError(
                "spike_cost weighs spikes against the error of the outputs, and no gradient of the "
                "outputs reaches any site; leave spike_cost out"
            )

    def share(self, site: Site) -> float:
        """The site's neurons, once for each time step, over all neurons of the network."""
        working = self._source.observed.neurons[site.name] * len(site.calls)
        return working / max(self._neurons, 1)

    def weight(self, site: Site) -> float:
        """Relative squared error of the outputs for a mean squared error of 1 at the site."""
        return float(self._source.observed.histograms[site.name].mass.sum()) / self.elements

    def priced(self, site: Site, problem: Problem) -> Problem:
        """A site's problem with the price of its events, and how often its inputs occur.

        A site that no gradient of the outputs reaches has none: what its error does isn't known.
        """
        weight = self.weight(site)
        if not self._spike_cost or not weight > 0:
            return problem
        price = self._spike_cost * self.share(site)
        used = problem.weights > 0
        p, f = problem.weights[used] / problem.weights[used].sum(), problem.values[used]
        dearest = _DEAREST * float(p @ f**2)
        histogram = self._source.observed.histograms[site.name]
        return replace(
            _without_small_base(problem),
            spike_cost=min(price / weight, dearest),
            frequencies=_frequencies(problem, histogram),
        )

    def events(self, site: Site, solution: Solution) -> float:
        """Events of the site's neurons for an image, over the neurons of the whole network."""
        histogram = self._source.observed.histograms[site.name]
        return self.share(site) * expected_events(histogram, solution)


def expected_events(histogram: Histogram, solution: Solution) -> float:
    """Events of a neuron for one of the inputs that calibration saw."""
    count = float(histogram.counts @ solution.run(histogram.centres)[1])
    if len(solution.gates) and np.asarray(solution.offset)[0] != 0:
        count += histogram.minus_infinite
    return count / (histogram.total + histogram.minus_infinite)


def _frequencies(problem: Problem, histogram: Histogram) -> Floats:
    """How often inputs fall in each bin; those beyond the ends count for the outermost bins."""
    last = len(problem.weights) - 1
    place = np.searchsorted(problem.edges, histogram.centres, side="left") - 1
    counts = np.bincount(np.clip(place, 0, last), histogram.counts, last + 1)
    return np.asarray(counts / (histogram.total + histogram.minus_infinite), np.float64)


def _without_small_base(problem: Problem) -> Problem:
    """The problem with a base of 0 where what was taken from f is next to nothing.

    With gates every constant is an event, and the base would be a constant of each interval.
    """
    spread = float(np.ptp(problem.values[problem.weights > 0]))
    if not problem.gates or not problem.base or abs(problem.base) > _NOTHING * spread:
        return problem
    return replace(
        problem,
        base=0.0,
        values=problem.values + problem.base,
        stairs=tuple(stairs.lowered(-problem.base) for stairs in problem.stairs),
    )


def _outputs(graph_module: GraphModule) -> int:
    """Floating-point numbers that the network puts out for an image."""
    graph = graph_module.graph
    given = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = [node.meta.get("val") for node in given.all_input_nodes]
    elements = sum(
        math.prod(map(size, value.shape))
        for value in values
        if isinstance(value, Tensor) and value.is_floating_point()
    )
    return max(elements // captured_batch(graph), 1)
