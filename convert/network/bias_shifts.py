"""What conversion adds to the biases of a network's layers, for every K, and what training left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Shifts(nn.Module):
    """One tensor for each of some biases, by the bias's path in the network."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        # A path has dots, which a buffer's name can't have.
        self.paths = list(values)
        for index, value in enumerate(values.values()):
            self.register_buffer(str(index), value.detach().clone())

    def __getitem__(self, path: str) -> Tensor:
        return self.get_buffer(str(self.paths.index(path)))

    def __contains__(self, path: str) -> bool:
        return path in self.paths


class Corrections(nn.Module):
    """The mean errors of layers, taken out of their biases.

    The network's biases hold what training left plus the shift for the K in use; `using` changes
    that for a while. A bias that was trained since keeps its training: the shift alone moves.

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

    def take_out(self, network: nn.Module, copied: nn.Module) -> None:
        """Gives a copy of the network, which shares its tensors, biases without any shift."""
        for path in self.upstream:
            value = self.original(network, path)
            owner, _, name = path.rpartition(".")
            module = copied.get_submodule(owner)
            if name in module._parameters:
                learns = _tensor(network, path).requires_grad
                module._parameters[name] = nn.Parameter(value, requires_grad=learns)
            else:
                module._buffers[name] = value

    @contextmanager
    def using(self, network: nn.Module, steps: int) -> Iterator[None]:
        """Lets the biases hold the shifts for another K inside the block."""
        with self._restored(network):
            self.put(network, steps)
            yield

    @contextmanager
    def only(self, network: nn.Module, sites: Collection[str]) -> Iterator[None]:
        """Inside the block a layer is shifted only if all sites before it are among these."""
        with self._restored(network):
            for path, needed in self.upstream.items():
                if path in self.held and not needed <= set(sites):
                    value = self.original(network, path)
                    del self.held[path]
                    _tensor(network, path).data = value
            yield

    @contextmanager
    def _restored(self, network: nn.Module) -> Iterator[None]:
        held = dict(self.held)
        before = {path: _tensor(network, path).data for path in self.upstream}
        try:
            yield
        finally:
            self.held = held
            for path, value in before.items():
                _tensor(network, path).data = value

    def _shift(self, key: str, path: str) -> Tensor:
        shifts = self.shifts[key]
        assert isinstance(shifts, Shifts)
        return shifts[path]


def _tensor(network: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found = getattr(network.get_submodule(owner), name)
    assert isinstance(found, Tensor)
    return found
