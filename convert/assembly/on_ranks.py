"""What several processes that convert one network together must agree on."""

from __future__ import annotations

from ..capture.capture import Captured
from ..common.ranks import team
from ..common.shares import digest
from ..network.settings import ConversionSettings


def check_alike(captured: Captured, settings: ConversionSettings) -> None:
    """Refuses processes of which one was given another model or other settings.

    Args:
        captured: the network of this process, its sites called as modules.
        settings: of this process.

    Raises:
        InputError: naming the process, and what to do.
    """
    together = team()
    if together is None:
        return
    remedy = "give every process the same"
    together.same("set of settings", str(settings.to_dict()), remedy)
    graph = captured.graph_module
    weights = dict(graph.state_dict())
    together.same(
        "model or weights",
        digest([str(graph.graph), list(weights), list(weights.values())]),
        f"{remedy} (a random network needs one seed)",
    )
