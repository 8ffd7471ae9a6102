"""What differs has another fingerprint, and what is the same has the same."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convert.common.fingerprints import fingerprint, of_network, surroundings
from convert.errors import ResumeError


def test_what_differs() -> None:
    x = torch.arange(6.0)
    values: list[Any] = [
        x,
        x.double(),
        x.reshape(2, 3),
        x.flip(0),
        x.numpy(),
        x.tolist(),
        [x],
        {"a": x},
        {"b": x},
        (x, None),
        (x, 0),
        (x, False),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        b"abc",
        torch.tensor(1.0),
        torch.tensor([1.0]),
        torch.tensor(-0.0),
        torch.tensor(0.0),
        np.array(["a", 1], object),
    ]
    found = [fingerprint(value) for value in values]
    same = [(i, j) for i, j in combinations(range(len(found)), 2) if found[i] == found[j]]
    assert not same


def test_what_is_the_same() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert fingerprint(x.t()) == fingerprint(x.t().contiguous())
    assert fingerprint([x, "a"]) == fingerprint((x.clone(), "a"))
    assert fingerprint(torch.tensor([1 + 2j]).conj()) == fingerprint(torch.tensor([1 - 2j]))


def test_an_object_of_unknown_content() -> None:
    with pytest.raises(ResumeError, match="holds an object of type object"):
        fingerprint([torch.ones(1), object()])


def test_networks(small: nn.Module) -> None:
    before = of_network(small)
    assert of_network(small.train()) == before
    with torch.no_grad():
        small.head.bias[0] += 1e-6  # type: ignore[index, union-attr, operator]
    assert of_network(small) != before
    first, second = (nn.Sequential(nn.LeakyReLU(slope)) for slope in (0.1, 0.2))
    assert of_network(first) != of_network(second)
    graphs = [
        torch.fx.symbolic_trace(nn.Sequential(layer)) for layer in (nn.ReLU(), nn.ReLU(), nn.SiLU())
    ]
    found = [of_network(graph) for graph in graphs]
    assert found[0] == found[1] != found[2]
    buffered = nn.Module()
    buffered.register_buffer("table", torch.zeros(2), persistent=False)
    empty = of_network(buffered)
    buffered.table[0] = 1  # type: ignore[index, operator]
    assert of_network(buffered) != empty


def test_threads_are_of_the_surroundings() -> None:
    before, threads = surroundings(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert surroundings() != before
    finally:
        torch.set_num_threads(threads)
    assert surroundings() == before
    assert len(str(before["fewspikes' own code"])) == 32
