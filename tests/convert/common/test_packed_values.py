"""Values come back as they were, bit for bit; damaged bytes and other objects are refused."""

import enum
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convert.common.packed_values import packed, unpacked
from convert.errors import ResumeError


class _Place(NamedTuple):
    row: int
    column: float


class _Kind(enum.StrEnum):
    ONE = "one"


@dataclass(frozen=True)
class _Held:
    values: np.ndarray[Any, Any]
    place: _Place


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


@given(_PLAIN)
def test_plain_values(value: Any) -> None:
    found = unpacked(packed(value))
    assert found == value and repr(found) == repr(value)


def test_numbers_that_json_has_not() -> None:
    found = unpacked(packed([math.nan, math.inf, -math.inf, -0.0, 2**200, Fraction(-1, 3**900)]))
    assert math.isnan(found[0]) and found[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, found[3]) == -1 and found[4:] == [2**200, Fraction(-1, 3**900)]


def test_tensors_and_arrays() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    given = {
        "view": whole.t()[1:],
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "one": torch.tensor(7),
        "none": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "array": np.arange(6, dtype=np.int64)[::2],
        "scalar": np.float64(0.1),
        "count": np.int64(3),
    }
    found = unpacked(packed(given))
    for name in ("view", "half", "one", "none", "flags"):
        assert found[name].dtype == given[name].dtype and torch.equal(found[name], given[name])
    assert found["array"].dtype == np.int64 and found["array"].tolist() == [0, 2, 4]
    assert type(found["scalar"]) is np.float64 and found["scalar"] == 0.1
    assert type(found["count"]) is np.int64 and found["count"] == 3
    found["view"].zero_()
    assert whole[1, 1] == 5


def test_objects_of_known_classes() -> None:
    given = [_Held(np.ones(2), _Place(1, 0.5)), _Kind.ONE, Counter(a=3), {2, 1}, frozenset("a")]
    content = packed(given, (_Held, _Place, _Kind))
    held, kind, *others = unpacked(content, (_Held, _Place, _Kind))
    assert isinstance(held, _Held) and held.values.tolist() == [1, 1]
    assert type(held.place) is _Place and held.place == (1, 0.5)
    assert type(kind) is _Kind and others == given[2:] and type(others[0]) is Counter
    with pytest.raises(ResumeError, match="damaged"):
        unpacked(content, (_Held, _Place))
    for value in ([object()], _Kind.ONE, _Place(1, 2.0), torch.nn.ReLU(), b"bytes", 1j):
        with pytest.raises(TypeError, match="can't be kept"):
            packed(value)


def test_every_changed_byte_is_seen() -> None:
    content = packed({"a": torch.arange(3), "b": [1.5, "x"]})
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        # What is behind the mark and the checksum says how long the JSON is; nothing else is free.
        with pytest.raises(ResumeError, match="kept is damaged"):
            unpacked(bytes(changed), where="kept")
    for size in (0, 10, len(content) - 1):
        with pytest.raises(ResumeError, match="damaged"):
            unpacked(content[:size])
