"""Pointwise functions of torch, each with a range that it takes, for networks around them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = torch.tensor

# Of any number.
FUNCTIONS = {
    "abs": torch.abs,
    "add_tensor": lambda x: F.relu(x) + T(0.5),
    "addcdiv": lambda x: torch.addcdiv(x, torch.sigmoid(x), T([2.0]), value=0.5),
    "addcmul": lambda x: torch.addcmul(x, torch.tanh(x), x, value=0.5),
    "arctan": torch.arctan,
    "asinh": torch.asinh,
    "bool_mask": lambda x: (x > 0.2).bool() * x,
    "bool_constant": lambda x: torch.where(T(True), F.relu(x), x),
    "cast_int": lambda x: x.int().float(),
    "cast_long": lambda x: (2 * x).long().to(x.dtype) / 2,
    "ceil": torch.ceil,
    "celu": F.celu,
    "clamp": lambda x: x.clamp(-0.4, 0.6),
    "clamp_channels": lambda x: torch.clamp(x, -torch.linspace(0.1, 0.8, 8), T(0.5)),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "clamp_min_tensor": lambda x: torch.clamp(x, min=T(0.1)),
    "clamp_min_one": lambda x: torch.clamp(x, min=T([0.1])),
    "clamp_tensors": lambda x: torch.clamp(x, T(-0.2), T(0.7)),
    "compare_mul": lambda x: (x >= 0) * 1.0,
    "compare_sub": lambda x: 1 - (x > 0).float(),
    "compare_two": lambda x: ((x > -0.3) & (x < 0.4)).float(),
    "compare_ne": lambda x: (x != 0).float() * x,
    "copysign": lambda x: torch.copysign(torch.sqrt(x.abs()), x),
    "copysign_scalar": lambda x: torch.copysign(x, T(1.0)),
    "cos": torch.cos,
    "cosh": torch.cosh,
    "dorefa": lambda x: torch.round(x.clamp(0, 1) * 7) / 7,
    "dorefa_ste": lambda x: x + (torch.round(x * 3) / 3 - x).detach(),
    "elu": F.elu,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "fix": torch.fix,
    "float_power": lambda x: torch.float_power(x, 2).float(),
    "floor": torch.floor,
    "floor_divide": lambda x: torch.div(x, 0.5, rounding_mode="floor"),
    "trunc_divide": lambda x: torch.div(x, 0.5, rounding_mode="trunc"),
    "fmax": lambda x: torch.fmax(x, T(0.2)),
    "fmin": lambda x: torch.fmin(x, T([0.2])),
    "fmod": lambda x: torch.fmod(x, 1.0),
    "frac": torch.frac,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardshrink": F.hardshrink,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "heaviside": lambda x: torch.heaviside(x, T(0.5)),
    "heaviside_one": lambda x: torch.heaviside(x, T([1.0])),
    "hypot": lambda x: torch.hypot(x, T(1.0)),
    "isfinite": lambda x: torch.where(torch.isfinite(x), F.relu(x), 0.0),
    "isnan": lambda x: torch.where(torch.isnan(x), 0.0, torch.tanh(x)),
    "ldexp": lambda x: torch.ldexp(F.relu(x), T(2)),
    "leaky_relu": F.leaky_relu,
    "lerp": lambda x: torch.lerp(F.relu(x), x, 0.3),
    "lerp_tensor": lambda x: torch.lerp(F.relu(x), x, T(0.3)),
    "log_sigmoid": F.logsigmoid,
    "logaddexp": lambda x: torch.logaddexp(x, T(0.0)),
    "logit": lambda x: torch.logit(torch.sigmoid(x), eps=0.2),
    "masked_fill": lambda x: x.masked_fill(x < 0.1, 0.25),
    "masked_fill_tensor": lambda x: x.masked_fill(x < 0.1, T(0.25)),
    "maximum": lambda x: torch.maximum(x, T(0.2)),
    "maximum_one": lambda x: torch.maximum(x, T([0.2])),
    "minimum": lambda x: torch.minimum(x, T(0.2)),
    "mish": F.mish,
    "nan_to_num": lambda x: torch.nan_to_num(torch.tanh(x)),
    "polynomial": lambda x: x**3 - 2 * x**2 + 0.5 * x,
    "pow": lambda x: x**2,
    "pow_tensor": lambda x: torch.pow(x.abs() + 0.1, T(1.5)),
    "pow_scalar_base": lambda x: torch.pow(2.0, x),
    "quantised": lambda x: torch.clamp(torch.round(x / 0.1), -8, 7) * 0.1,
    "relu": F.relu,
    "relu6": F.relu6,
    "remainder": lambda x: torch.remainder(x, 0.7),
    "remainder_tensor": lambda x: torch.remainder(x, T(0.7)),
    "round": torch.round,
    "round_decimals": lambda x: torch.round(x, decimals=1),
    "selu": F.selu,
    "sgn": torch.sgn,
    "sigmoid": torch.sigmoid,
    "sign": torch.sign,
    "signbit": lambda x: torch.signbit(x).float(),
    "silu": F.silu,
    "sin": torch.sin,
    "sinc": torch.sinc,
    "sinh": torch.sinh,
    "softplus": F.softplus,
    "softshrink": F.softshrink,
    "softsign": F.softsign,
    "square": torch.square,
    "squared_relu": lambda x: F.relu(x) ** 2,
    "step_of_sum": lambda x: (x + 0.1 > 0).to(torch.float32),
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -0.5),
    "trunc": torch.trunc,
    "where": lambda x: torch.where(x > 0.1, x, -1.0),
    "where_fills": lambda x: torch.where(x > 0.1, torch.ones_like(x), torch.zeros_like(x)),
    "where_zeros": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where_full": lambda x: torch.where(x > 0.1, torch.full_like(x, 0.7), torch.full_like(x, 0.2)),
    "where_scalars": lambda x: torch.where(x > 0.1, T(0.7), T(0.2)),
    "where_not": lambda x: torch.where(~(x > 0.1), x, 2 * x),
    "xlogy": lambda x: torch.xlogy(x.abs(), x.abs() + 0.1),
    "xor": lambda x: ((x > 0) ^ (x > 0.5)).to(x.dtype),
}
# Of positive numbers.
POSITIVE = {
    "acosh": lambda x: torch.acosh(x + 1),
    "digamma": torch.digamma,
    "div_scalar": lambda x: 1.0 / x,
    "lgamma": torch.lgamma,
    "log": torch.log,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "pow_half": lambda x: x**0.5,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "sqrt": torch.sqrt,
    "xlogy_self": lambda x: torch.xlogy(x, x),
}


class Around(nn.Module):
    """A linear layer, functions one after the other, and another linear layer."""

    def __init__(self, *functions: object, positive: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.functions, self.positive = functions, positive

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y.abs() + 0.2 if self.positive else y
        for function in self.functions:
            y = function(y)
        return self.b(y)
