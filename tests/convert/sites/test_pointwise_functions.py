"""Every pointwise function of torch becomes a site, or is left alone in the report's words.

`FEWSPIKES_POINTWISE=500 python -m pytest tests/convert/sites/test_pointwise_functions.py` tries all
of them with the default method, and as many compositions.
"""

import os
import random
import warnings

import pytest
import torch
from support.pointwise import FUNCTIONS, POSITIVE, Around
from torch import Tensor

from convert import audit, to_spiking

_COUNT = int(os.environ.get("FEWSPIKES_POINTWISE", "0"))
# What every change of this package should be tried on: one of each kind.
_SOME = (
    "bool_constant", "clamp_channels", "clamp_min_tensor", "compare_sub", "copysign", "dorefa",
    "frac", "heaviside_one", "lerp_tensor", "logit", "masked_fill", "nan_to_num", "pow_tensor",
    "where_not", "where_full", "xlogy", "xor",
)  # fmt: skip
STEPS = [8, 2]


def _inputs(seed: int) -> Tensor:
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))


def _errors(model: Around, method: str) -> list[float]:
    """Errors of the outputs with few steps and with many, on fresh inputs."""
    x = _inputs(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = to_spiking(model.eval(), _inputs(0), steps=STEPS, method=method, progress=False)
    found = audit(snn, x)
    assert found.agrees, found.differences
    with torch.no_grad():
        exact = model(x)
        torch.testing.assert_close(snn.original()(x), exact, rtol=1e-5, atol=1e-5)
        spread = float((exact - exact.mean(0)).norm())
        errors = []
        for k in reversed(STEPS):
            with snn.with_steps(k):
                errors.append(float((snn(x) - exact).norm()) / max(spread, 1e-3))
    return errors


@pytest.mark.parametrize("name", _SOME)
def test_is_converted_and_proved(name: str) -> None:
    few, many = _errors(Around(FUNCTIONS[name]), "binary")
    assert many <= 1.1 * few + 1e-3


@pytest.mark.skipif(not _COUNT, reason="a long run: FEWSPIKES_POINTWISE")
@pytest.mark.parametrize("name", [*FUNCTIONS, *POSITIVE])
def test_error_falls_with_more_steps(name: str) -> None:
    functions = FUNCTIONS | POSITIVE
    few, many = _errors(Around(functions[name], positive=name in POSITIVE), "tbpi-exact")
    assert many <= max(0.6 * few, 0.02)


@pytest.mark.skipif(not _COUNT, reason="a long run: FEWSPIKES_POINTWISE")
@pytest.mark.parametrize("seed", range(_COUNT))
def test_compositions_are_converted_and_proved(seed: int) -> None:
    draw = random.Random(seed)
    names = draw.sample(sorted(FUNCTIONS), draw.choice((2, 2, 3)))
    _errors(Around(*(FUNCTIONS[name] for name in names), seed=seed), "binary")
