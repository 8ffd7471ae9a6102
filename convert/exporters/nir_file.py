"""A spiking network as a file of NIR: every neuron its K steps in thresholds, scales and sums."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.files import atomic_path
from ..errors import ExportError
from ..network.model import SpikingModel
from .nir_graph import NirGraph, NirNode, NirSize
from .nir_network import nir_graph

if TYPE_CHECKING:
    import nir

# Bytes of arrays that are written unless a larger limit is given.
LIMIT = 2_000_000_000


def nir_size(snn: SpikingModel, *, compact: bool = False) -> NirSize:
    """How large the network's NIR file is, before anything is written; needs no `nir`.

    Args:
        snn: the network.
        compact: as for `export_nir`.

    Raises:
        ExportError: as for `export_nir`.
    """
    return nir_graph(snn, compact=compact).size


def export_nir(
    snn: SpikingModel,
    path: str | os.PathLike[str],
    *,
    compact: bool = False,
    limit: int = LIMIT,
    progress: bool = True,
) -> NirSize:
    """Writes the network as one file of NIR; its size is said first.

    Every site becomes K nodes `Threshold` (G K of them with gates), with `Scale` and summing edges
    around them; nothing needs a node that NIR lacks, and nothing waits: an image's spikes of all
    steps are there in one time step of the reader.

    Args:
        snn: the network; inside `with_steps` its neurons of that K.
        path: by convention ``*.nir``; written whole or not at all.
        compact: one `Threshold` for each site, with T, h, d, y0 and the gates as metadata: for
            readers that know few-spikes neurons. Any other computes something else with it.
        limit: bytes of arrays that may be written.
        progress: says the size on stderr.

    Raises:
        ExportError: if the package `nir` is missing, the network is larger than the limit, or NIR
            has no nodes for some of its parts, which are named.
        InputError: for what is no whole network, or a folder that can't be written to.
    """
    try:
        import nir
    except ImportError as error:
        raise ExportError("export to NIR needs nir; run: pip install nir") from error
    made = nir_graph(snn, compact=compact)
    found = made.size
    if found.bytes > limit:
        other = (
            ""
            if compact
            else (f", compact=True ({nir_size(snn, compact=True).bytes / 1e6:,.1f} MB)")
        )
        raise ExportError(
            f"the NIR file would have {found}, more than limit={limit:,} bytes; give limit="
            f"{found.bytes}{other}, or fewer steps by snn.with_steps"
        )
    if progress:
        print(f"{os.fspath(path)}: {found}", file=sys.stderr, flush=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Not by its path: HDF5 would lock the file, which is locked while it is written.
        written = io.BytesIO()
        nir.write(written, _as_nir(made, compact))
        file.write(written.getbuffer())
    return found


def _as_nir(made: NirGraph, compact: bool) -> nir.NIRGraph:
    import nir

    nodes = {name: _node(node) for name, node in made.nodes.items()}
    metadata = {"writer": "fewspikes", "form": "compact" if compact else "unrolled"}
    return nir.NIRGraph(nodes=nodes, edges=made.edges, metadata=metadata)


def _node(node: NirNode) -> nir.NIRNode:
    import nir

    fields: dict[str, Any] = dict(node.fields)
    if node.kind in ("Input", "Output"):
        end = node.kind.lower()
        fields = {f"{end}_type": {end: np.array(fields["lengths"])}}
    found: nir.NIRNode = getattr(nir, node.kind)(**fields, metadata=dict(node.metadata))
    return found
