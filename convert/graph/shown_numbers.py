"""Whether a number that forward takes out of a tensor is only printed or logged."""

from __future__ import annotations

import ast
import functools
import linecache
from types import CodeType, FrameType
from typing import Any

Position = tuple[int | None, ...]
_PRINTS = {"print", "debug", "info", "warning", "warn", "error", "critical", "exception", "log"}
_LOGGERS = {"logging", "logger", "log", "LOG", "LOGGER", "Logger", "warnings"}


def only_shown(frame: FrameType) -> bool:
    """Whether what `frame` calls now stands inside a statement that prints or logs it.

    Only text decides: ``print(f"{float(x.max()):.3f}")``, ``logger.info("%f", x.item())``.
    """
    return _only_shown(frame.f_code, position(frame))


@functools.lru_cache(4096)
def _at(code: CodeType, instruction: int) -> Position:
    return tuple(list(code.co_positions())[instruction // 2])


def position(frame: FrameType) -> Position:
    """First and last line, first and last column of the expression that a frame is at."""
    return _at(frame.f_code, frame.f_lasti)


@functools.lru_cache(1024)
def _only_shown(code: CodeType, positions: Position) -> bool:
    if code.co_filename.startswith("<") and not linecache.getlines(code.co_filename):
        return False
    if None in positions:
        return False
    try:
        module = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return False
    for node in ast.walk(module):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if _prints(node.value.func) and _holds(node.value, positions):
                return all(map(_harmless, _around(node.value, positions)))
    return False


def _prints(called: ast.expr) -> bool:
    if isinstance(called, ast.Name):
        return called.id == "print"
    if not isinstance(called, ast.Attribute) or called.attr not in _PRINTS:
        return False
    owner = called.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    if isinstance(owner, ast.Call):  # logging.getLogger("net").info(...)
        return isinstance(owner.func, ast.Attribute) and owner.func.attr == "getLogger"
    return name.lstrip("_") in _LOGGERS


def _around(node: ast.AST, positions: Position) -> list[ast.AST]:
    """The expressions inside `node` that hold the position, without the call there itself."""
    inner = [n for n in ast.walk(node) if n is not node and _holds(n, positions)]
    return [n for n in inner if _place(n) != _begin_end(positions)]


def _harmless(node: ast.AST) -> bool:
    """Whether an expression does nothing but make text: it calls no function of the user's."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        return name in {"round", "float", "int", "str", "format", "repr"}
    text = ast.JoinedStr | ast.FormattedValue | ast.Attribute | ast.Tuple | ast.keyword | ast.BinOp
    return isinstance(node, text | ast.UnaryOp | ast.List | ast.Dict | ast.Starred)


def _holds(node: ast.AST, positions: Position) -> bool:
    if not hasattr(node, "lineno"):
        return False
    (begin, end), (first, last) = _place(node), _begin_end(positions)
    return begin <= first and last <= end


def _place(node: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _begin_end(positions: Position) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    line, end_line, column, end_column = positions
    return (line, column), (end_line, end_column)
