"""What conversion adds to the biases of a network's layers, for every K, and what training left."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ..graph.run import module_at


class Shifts(nn.Module):
    """One tensor for each of some biases, by the bias's path in the network."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        # A path has dots, which a buffer's name can't have.
        self.paths = list(values)
        for index, value in enumerate(values.values()):
            self.register_buffer(str(index), value.detach().clone())

        self._place = {path: str(index) for index, path in enumerate(self.paths)}

    def __getitem__(self, path: str) -> Tensor:
        found = self._buffers[self._place[path]]
        assert found is not None
        return found

    def __contains__(self, path: str) -> bool:
        return path in self._place


class Corrections(nn.Module):
    """The mean errors of layers, taken out of their biases.

    The network's biases hold what training left plus the shift for the network's own K; a run for
    another K takes other biases along (`replaced`). A bias that was trained since keeps its
    training: the shift alone differs.

    Args:
        upstream: names of the sites that a layer's output depends on, by the path of its bias.
        trained: biases as they were at conversion, by path.
    """

    def __init__(
        self,
        upstream: Mapping[str, Collection[str]] | None = None,
        trained: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.upstream = {path: frozenset(sites) for path, sites in (upstream or {}).items()}
        self.trained = Shifts(trained or {})
        # By str(K).
        self.shifts = nn.ModuleDict()
        # The K whose shift a bias holds just now, by path.
        self.held: dict[str, str] = {}

    def add(self, steps: int, shifts: Mapping[str, Tensor]) -> None:
        """Keeps the shifts for one K; they are not put into the network."""
        self.shifts[str(steps)] = Shifts(shifts)

    def original(self, network: nn.Module, path: str) -> Tensor:
        """A bias without any shift."""
        now = _tensor(network, path).detach()
        if path not in self.held:
            return now
        shift = self._shift(self.held[path], path)
        before = self.trained[path]
        # What was not trained since is restored bit for bit.
        return torch.where(now == before + shift, before, now - shift)

    def put(self, network: nn.Module, steps: int | None) -> None:
        """Lets the network's biases hold the shifts for one K from now on; None: no shifts."""
        key = str(steps)
        for path in self.upstream:
            value = self.original(network, path)
            self.held.pop(path, None)
            if steps is not None and key in self.shifts:
                value = value + self._shift(key, path)
                self.held[path] = key
            _tensor(network, path).data = value

    def replaced(
        self, network: nn.Module, steps: int, spiking: Collection[str] | None
    ) -> dict[str, Tensor]:
        """The biases of a run that doesn't read what the network holds, by path.

        A layer is shifted for the K of the run, and only if all sites before it spike.

        Args:
            network: the network; it is left as it is.
            steps: K of the run.
            spiking: names of the sites that spike; None for all.
        """
        key = str(steps)
        found: dict[str, Tensor] = {}
        for path, needed in self.upstream.items():
            shifted = key in self.shifts and (spiking is None or needed <= frozenset(spiking))
            if self.held.get(path) == (key if shifted else None):
                continue
            value = self.original(network, path)
            if shifted:
                value = value + self._shift(key, path)
            now = _tensor(network, path)
            # Bit for bit that value, with the gradient of the bias.
            found[path] = value + (now - now.detach()) if now.requires_grad else value
        return found

    def _shift(self, key: str, path: str) -> Tensor:
        shifts = self.shifts[key]
        assert isinstance(shifts, Shifts)
        return shifts[path]


def _tensor(network: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    module = module_at(network, owner)
    found = module._parameters.get(name)
    # A replica of `nn.DataParallel` has plain attributes.
    found = getattr(module, name) if found is None else found
    assert isinstance(found, Tensor)
    return found
