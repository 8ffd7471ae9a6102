"""What a converted network really does: the names of `convert.inspect`."""

from convert.inspect import *  # noqa: F403
from convert.inspect import __all__ as __all__
