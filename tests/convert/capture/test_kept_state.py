"""What a model holds is put back as it was, in containers of the user's own classes too."""

from collections import OrderedDict, deque

import torch
from torch import nn

from convert.capture.capture import capture
from convert.capture.kept_state import KeptState


class Makes(OrderedDict):
    """A registry of classes that makes an object whenever it is read, as libraries have them."""

    def __getitem__(self, key):
        return super().__getitem__(key)()


class Doubles(list):
    """A list that gives other items than it holds, and takes none."""

    def __iter__(self):
        return (2 * item for item in super().__iter__())

    def extend(self, items):
        raise TypeError("this list is full")


class Reads(dict):
    """A dict whose items are read and written otherwise than they are held."""

    def items(self):
        return [(key, object()) for key in self]

    def update(self, *_):
        raise TypeError("this dict can't be changed")


REGISTRY = Makes(relu=nn.ReLU, silu=nn.SiLU)


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return REGISTRY["silu"](self.fc(x))


def test_a_registry_that_makes_what_is_read_of_it_is_left_alone():
    model, x = Reading().eval(), torch.rand(4, 4)
    before = model(x)
    captured = capture(model, x)
    assert OrderedDict.__getitem__(REGISTRY, "silu") is nn.SiLU
    assert torch.equal(model(x), before)
    found = captured.graph_module(x)[0]
    assert torch.allclose(found, before, atol=1e-6)


def test_containers_of_own_classes_get_back_what_they_held():
    held = [Makes(a=int, b=str), Doubles([1, 2]), Reads(a=1), deque([3, 4]), {5, 6}]
    registry, doubles, reads, queue, numbers = held
    kept = KeptState(held)
    registry["b"] = float
    registry.move_to_end("a")
    doubles.append(3)
    reads["b"] = 2
    queue.rotate()
    numbers.add(7)
    kept.put_back()
    assert [*registry] == ["a", "b"]
    assert OrderedDict.__getitem__(registry, "b") is str
    assert list.__len__(doubles) == 2 and [*doubles] == [2, 4]
    assert dict.__len__(reads) == 1 and queue == deque([3, 4]) and numbers == {5, 6}
