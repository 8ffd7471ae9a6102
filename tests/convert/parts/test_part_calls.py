"""Calls of a part in one way, whichever way the model writes them."""

import inspect
from typing import Any

import torch
from support.models_with_parts import Block
from torch import Tensor

from convert.parts.part_calls import PartCall, called_with, forward_of, single

X = torch.ones(4, 8)
FORWARD = forward_of(Block())


def _call(*args: Any, **kwargs: Any) -> PartCall:
    return called_with(FORWARD, args, kwargs)


def test_defaults_and_places_make_no_difference() -> None:
    forms = [
        _call(X).form(),
        _call(x=X).form(),
        _call(X, None).form(),
        _call(X, mask=None, scale=1.0).form(),
    ]
    assert all(form == forms[0] for form in forms)
    assert _call(X).names == ("x", "mask", "scale")


def test_a_mask_and_another_number_make_another_form() -> None:
    plain = _call(X).form()
    assert _call(X, X).form() != plain
    assert _call(X, scale=2.0).form() != plain
    assert _call(X, scale=1).form() != plain  # a whole number computes otherwise
    assert _call(X[None]).form() != plain
    assert _call(X[:1]).form() == plain


def test_the_first_argument_that_no_graph_holds() -> None:
    assert _call(X).opaque() is None
    assert _call(X, mask=print).opaque() == ("mask", print)
    kinds = torch.float32, torch.device("cpu"), "same", 3, None
    assert called_with(inspect.signature(lambda *x: x), kinds, {}).opaque() is None


def test_one_row_is_made_as_long_as_the_others() -> None:
    call = called_with(inspect.signature(lambda x, pos, mask: x), (X, X[:1], X[0]), {})
    x, pos, mask = call.spread().args
    assert pos.shape == x.shape == (4, 8) and mask.shape == (8,)
    alone = called_with(inspect.signature(lambda x, pos: x), (X[:1], X[:1]), {})
    assert alone.spread() is alone


def test_a_single_image_is_a_batch_of_one() -> None:
    batch = _call(X[0], X[0]).batched()
    assert [t.shape for t in batch.tensors] == [(1, 8), (1, 8)]
    found = single({"a": (batch.tensors[0], 3)})
    assert isinstance(found["a"][0], Tensor) and found["a"][0].shape == (8,) and found["a"][1] == 3
