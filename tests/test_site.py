"""The pages of the site: their examples, what they quote, their commands, and the build."""

import argparse
import contextlib
import copy
import importlib.util
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convert

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_PAGES = [_ROOT / "README.md", *sorted(_DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Fits that take no search, and no bars.
_QUICK = (
    (r'(steps=[^()]*?)(, method="binary")?\)', r'\1, method="binary", progress=False)'),
)


def _page(name: str) -> str:
    return (_DOCS / name).read_text(encoding="utf-8")


def _run(page: str, names: dict[str, Any], changes: Mapping[str, str] | None = None) -> str:
    """Runs the examples of a page, in order, and gives what they print and warn of.

    What a block of text quotes must be a line of what was said before it; ``...`` is anything.
    """
    said: list[str] = []
    left = dict(changes or {})
    for language, block in _FENCE.findall(_page(page)):
        if language == "python":
            for old, new in (changes or {}).items():
                if old in block:
                    left.pop(old, None)
                    block = block.replace(old, new)
            with (
                contextlib.redirect_stdout(io.StringIO()) as printed,
                warnings.catch_warnings(record=True) as warned,
            ):
                warnings.simplefilter("always")
                exec(compile(block, page, "exec"), names)
            said += printed.getvalue().splitlines()
            said += [f"{each.category.__name__}: {each.message}" for each in warned]
        elif language == "text":
            for line in block.splitlines():
                pattern = ".*".join(map(re.escape, line.split("...")))
                assert any(re.fullmatch(pattern, each) for each in said), line
    assert not left, f"{page} no longer has {list(left)}"
    return "\n".join(said)
