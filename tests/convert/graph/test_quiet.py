"""A capture that fails says so once: torch's logs and graphs stay away, for that time only."""

import logging
import sys
import threading
import warnings

import pytest
import torch
import torch.export._trace as tracing
from torch import Tensor, nn

from convert import CaptureError
from convert.graph.capture import capture
from convert.graph.quiet import quiet

LOGGER = logging.getLogger("torch.fx.experimental.symbolic_shapes")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.line(x)
        return torch.relu(x) if (x == 0).all() else x


def test_a_failed_capture_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    streams = tracing.sys
    with pytest.raises(CaptureError):
        capture(Branching().eval(), torch.randn(4, 3))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert tracing.sys is streams is sys


def _logged(text: str) -> list[str]:
    """What a handler at the root gets of one record of torch's."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Handler()
    LOGGER.addHandler(handler)
    try:
        LOGGER.warning(text)
    finally:
        LOGGER.removeHandler(handler)
    return found


def test_only_the_thread_inside_is_quiet() -> None:
    others: list[str] = []
    filters, shown = list(LOGGER.filters), list(warnings.filters)
    with quiet():
        with quiet():
            assert _logged("inside") == []
        assert _logged("still inside") == []
        other = threading.Thread(target=lambda: others.extend(_logged("beside")))
        other.start()
        other.join()
    assert others == ["beside"] and _logged("after") == ["after"]
    assert LOGGER.filters == filters and warnings.filters == shown


def test_who_asks_for_logs_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS", "dynamic")
    with quiet():
        assert _logged("wanted") == ["wanted"]
    monkeypatch.delenv("TORCH_LOGS")
    torch._logging.set_logs(dynamic=logging.WARNING)
    try:
        with quiet():
            assert _logged("wanted, too") == ["wanted, too"]
    finally:
        torch._logging.set_logs()


def test_an_exception_leaves_nothing_behind() -> None:
    with pytest.raises(ValueError), quiet():
        raise ValueError
    assert _logged("after") == ["after"] and tracing.sys is sys
