"""The program that saves memory equals the plain graph, bit for bit, on random graphs.

`FEWSPIKES_GRAPHS=5000 python -m pytest tests/convert/network/test_random_graphs.py` tries as many.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.random_graphs import Case, random_case
from torch import Tensor

from convert.network import buffer_reuse
from convert.network.model import SpikingModel

_COUNT = int(os.environ.get("FEWSPIKES_GRAPHS", "150"))
_settings = settings(
    max_examples=_COUNT,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**31)


def _same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.stride() == b.stride()
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        assert torch.equal(a.isnan(), b.isnan())


def _compared(case: Case, inputs: tuple[Tensor, ...], around: Any = nullcontext) -> None:
    """The program against the graph itself, in a block of the network's."""
    snn = case.snn
    before = [x.clone() for x in inputs]
    with torch.no_grad(), around(snn):
        expected = snn.as_planned(snn.plan)(*(x.clone() for x in inputs))
        runner = snn.runner(snn.network)
        found = snn.run_by(runner, snn.network, list(inputs), snn.plan)
        assert runner._program is not None or runner._parts is not None
        _same(found, expected)
        again = snn.run_by(runner, snn.network, list(inputs), snn.plan)
        _same(again, expected)
    for x, kept in zip(inputs, before, strict=True):
        assert torch.equal(x, kept)


def _exact(snn: SpikingModel) -> AbstractContextManager[Any]:
    return snn.spiking_only([])


def _cut(snn: SpikingModel) -> AbstractContextManager[Any]:
    return snn.readout(1)


def _repeated(snn: SpikingModel) -> AbstractContextManager[Any]:
    return snn.repeated()


@pytest.fixture(autouse=True)
def _small_sums_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_reuse, "_WORTH_ONE_PASS", 0)


@given(seeds)
@_settings
def test_as_it_is(seed: int) -> None:
    case = random_case(seed)
    _compared(case, case.inputs)


@given(seeds, st.sampled_from([_exact, _cut, _repeated]))
@_settings
def test_in_blocks(seed: int, around: Any) -> None:
    case = random_case(seed)
    _compared(case, case.inputs, around)


@given(seeds, st.sampled_from(["half", "bfloat16", "double", "autocast"]))
@_settings
def test_in_other_types(seed: int, kind: str) -> None:
    case = random_case(seed)
    if kind == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            try:
                case.snn.network(*case.inputs)
            except RuntimeError:
                return
            _compared(case, case.inputs)
        return
    dtype = getattr(torch, {"half": "float16", "double": "float64"}.get(kind, kind))
    case.snn.to(dtype)
    inputs = tuple(x.to(dtype) for x in case.inputs)
    with torch.no_grad():
        try:
            case.snn.network(*inputs)
        except RuntimeError:
            return  # the graph itself mixes types that torch doesn't take
    _compared(case, inputs)


def test_most_graphs_do_overwrite() -> None:
    counts = []
    for seed in range(100):
        snn = random_case(seed).snn
        paths = tuple(snn.names.values())
        counts.append(
            buffer_reuse.frugal(snn.network.graph, buffer_reuse.Places(paths)).overwriting
        )
    assert sum(count > 0 for count in counts) > 80
    assert sum(counts) > 200
