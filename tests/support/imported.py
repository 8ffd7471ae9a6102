"""What a process has imported once it has converted a network, so that its forks needn't.

Some of it is imported at the first compilation and the first capture only.
"""

from contextlib import suppress
from importlib import import_module

from . import processes as processes

for name in (
    "numba.cpython.builtins",
    "numba.np.arraymath",
    "numba.np.random.legacy",
    "numba.typed.typeddict",
    "scipy.linalg",
    "sympy.combinatorics",
    "torch.testing",
):
    # Only a matter of time.
    with suppress(ImportError):
        import_module(name)
