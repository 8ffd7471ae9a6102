"""The file that a path's ending asks for."""

from __future__ import annotations

import os

from ..common.files import file_path
from ..errors import InputError
from ..network.model import SpikingModel
from .nir_file import LIMIT, export_nir
from .onnx_file import export_onnx


def export(
    snn: SpikingModel,
    path: str | os.PathLike[str],
    *,
    spikes: bool = False,
    compact: bool = False,
    limit: int | None = None,
    progress: bool = True,
) -> None:
    """Writes a network as NIR where the path ends with ``.nir``, else as ONNX.

    Args:
        snn: the network; what its calls do just now is what is written.
        path: of the file; written whole or not at all.
        spikes: of ONNX alone; see `export_onnx`.
        compact, limit, progress: of NIR alone; see `export_nir`.

    Raises:
        ExportError: for what the form can't say.
        InputError: for an option of the other form, or a folder that can't be written to.
    """
    if file_path(path).suffix.lower() == ".nir":
        if spikes:
            raise InputError("spikes=True is of ONNX alone: a NIR file shows every spike as it is")
        given = LIMIT if limit is None else limit
        export_nir(snn, path, compact=compact, limit=given, progress=progress)
        return
    if compact or limit is not None:
        raise InputError(
            "compact= and limit= are of NIR alone; end the path with .nir, or leave them out"
        )
    export_onnx(snn, path, spikes=spikes)
