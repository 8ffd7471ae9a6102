"""The neurons of a network, by the name of their site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from ..errors import SiteError
from ..neuron.few_spikes import FewSpikesNeuron


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
