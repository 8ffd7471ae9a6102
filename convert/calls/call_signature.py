"""How a captured network is called: its inputs, their shapes, and the form of its outputs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from ..common.shares import Share
from ..common.tracing import traced
from ..errors import InputError
from .batch_bounds import BatchBounds, label_parts
from .batch_forms import Given
from .batch_layout import Axes, Batch, Layout, image_count, parts, resized
from .batch_reading import BatchReader, moved
from .forward_parameters import Parameters, parameters_of
from .input_shapes import TensorInput, check_shapes
from .own_classes import register, same_form
from .sizes import Size

# Positional and keyword inputs.
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Signature:
    """Names, tensors and trees of a call.

    Args:
        names: parameter names in the order in which their values are flattened.
        inputs: one entry a leaf; None for a leaf that isn't a tensor.
        constants: the values of those leaves.
        in_spec: tree of the values, one a name.
        out_spec: tree of the outputs.
        channels_last: lays images ``[N, C, H, W]`` on the CPU out so; see `layout`.
        positional: how many of the inputs can be given by position.
        outputs: where the images lie in each flat output, None for what is no floating-point
            tensor; empty where all are ``[N, ...]``.
        mixes: whether what the network gives for an image depends on the others of its batch.
        bounds: the sizes of a batch that are taken; None for any.
        varying: the lengths of the inputs that vary beside the batch.
    """

    names: tuple[str, ...]
    inputs: tuple[TensorInput | None, ...]
    constants: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    channels_last: bool = False
    positional: int = 1
    outputs: tuple[Layout | None, ...] = ()
    mixes: bool = False
    bounds: BatchBounds | None = None
    varying: tuple[Size, ...] = ()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out_spec: pytree.TreeSpec,
        batch: Batch,
        bounds: BatchBounds | None = None,
        varying: Mapping[tuple[int, int], Size] | None = None,
    ) -> Signature:
        """Reads the signature off an example call with a known batch.

        Args:
            model: that is called.
            args, kwargs: of the call.
            out_spec: the tree of its outputs.
            batch: where the images are.
            bounds: the sizes of a batch that are taken; None for any.
            varying: the lengths that vary, by the flat input and its axis.
        """
        sizes = varying or {}
        names, owners = named(model, args, kwargs)
        leaves, in_spec = pytree.tree_flatten([*args, *kwargs.values()])
        inputs = tuple(
            TensorInput(
                owner,
                tuple(
                    None if place == axis else sizes[i, place].name if (i, place) in sizes else n
                    for place, n in enumerate(leaf.shape)
                ),
                leaf.dtype,
            )
            if isinstance(leaf, Tensor)
            else None
            for i, (owner, leaf, axis) in enumerate(zip(owners, leaves, batch.axes, strict=True))
        )
        constants = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        # Inputs by name that stand in forward's order can be given by position as well.
        places = parameters_of(model).names
        ordered = [a == b for a, b in zip(names, places, strict=False)]
        count = max(len(args), [*ordered, False].index(False))
        known = batch.outputs if len(batch.outputs) == out_spec.num_leaves else ()
        if all(layout in (None, Layout()) for layout in known):
            known = ()
        return cls(
            names,
            inputs,
            constants,
            in_spec,
            out_spec,
            positional=count,
            outputs=known,
            mixes=batch.mixes,
            bounds=bounds,
            varying=tuple({size.name: size for size in sizes.values()}.values()),
        )

    @property
    def parameters(self) -> Parameters:
        """What a call takes, as `BatchReader` wants it."""
        ordered = self.positional > 0 or len(self.names) < 2
        first = max(self.positional, 1) if ordered else len(self.names)
        leaves = [None if i is None else len(i.shape) for i in self.inputs]
        return Parameters(
            names=self.names[:first],
            required=first,
            by_name=self.names[first:],
            takes_dict=bool(self.names) and self.in_spec.children()[0].type is dict,
            unordered=not ordered,
            dtypes=tuple(None if i is None else i.dtype for i in self.inputs),
            dims=tuple(leaves) if len(leaves) == len(self.names) else (),
        )

    @property
    def axes(self) -> Axes:
        """The axis of the images of every flat input."""
        return tuple(None if tensor is None else tensor.axis for tensor in self.inputs)

    @property
    def shapes(self) -> tuple[tuple[int | str | None, ...] | None, ...]:
        """The shape of every flat input; None for what is no tensor."""
        return tuple(None if tensor is None else tensor.shape for tensor in self.inputs)

    @property
    def whole(self) -> bool:
        """Whether a batch must not be cut: a part of an output depends on several images."""
        return self.mixes or any(layout is not None and layout.mixes for layout in self.outputs)

    @property
    def cut_axis(self) -> int | None:
        """The axis along which one tensor of images may be cut into batches; None for none."""
        return None if self.whole else next((a for a in self.axes if a is not None), None)

    @property
    def batch_axis(self) -> int | dict[str, int]:
        """The axis of the images, by the name of the input where they differ."""
        axes = {t.name: t.axis for t in self.inputs if t is not None and t.axis is not None}
        alike = set(axes.values())
        return axes if len(alike) > 1 else next(iter(alike), 0)

    def layouts(self, count: int) -> tuple[Layout, ...]:
        """Where the images lie in each of the `count` floating-point outputs."""
        known = tuple(layout for layout in self.outputs if layout is not None)
        return known if len(known) == count else (Layout(),) * count

    def split(
        self, batch: Any, device: torch.device | str | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of a batch of this network, on a device; one that was read, or in any form."""
        given = batch if isinstance(batch, Given) else BatchReader(self.parameters).read(batch)
        return moved(given, device)

    def within(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Calibration batches that can be read as often as `batches`, in sizes that are taken.

        Images that are too few for another batch are left out.
        """
        return batches if self.bounds is None else _Within(batches, self, self.bounds)

    def taken(self, batch: Given) -> Iterable[Given]:
        """A batch, cut where it is larger than what the network takes at once.

        Raises:
            InputError: if it can't be cut into sizes that are taken.
        """
        size = 0 if self.bounds is None else self.size_of((batch.args, batch.kwargs))
        if self.bounds is None or not size or self.bounds.holds(size):
            return [batch]
        if self.whole:
            self.bounds.check(size)
        return self.divided(batch, size, self.bounds.sizes(size, 1))

    def divided(self, batch: Given, size: int, sizes: list[int]) -> Iterator[Given]:
        """A batch of `size` images in parts of these sizes, its label with it."""
        calls = self.cut((batch.args, batch.kwargs), sizes)
        labels = label_parts(batch.label, size, sizes)
        beside = label_parts(batch.others, size, sizes)
        for (args, kwargs), label, others in zip(calls, labels, beside, strict=True):
            yield replace(batch, args=args, kwargs=kwargs, label=label, others=others)

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The flat inputs of a call, checked.

        Raises:
            InputError: for a missing or unknown input, another tree, shape, or kind of number.
        """
        if not kwargs and not torch.compiler.is_compiling() and self._flat and self._fits(args):
            return [self._laid_out(leaf, torch.channels_last) for leaf in args]
        takes = ", ".join(str(tensor) for tensor in self.inputs if tensor is not None)
        if len(args) > len(self.names):
            raise InputError(f"{len(args)} inputs given; the network takes {takes}")
        values = dict(zip(self.names, args, strict=False))
        unknown = [n for n in kwargs if n not in self.names or n in values]
        values.update(kwargs)
        missing = [name for name in self.names if name not in values]
        if unknown or missing:
            found = [("missing inputs", missing), ("unexpected inputs", unknown)]
            faults = ", ".join(f"{what} {names}" for what, names in found if names)
            raise InputError(f"{faults}; the network takes {takes}")
        ordered = [values[name] for name in self.names]
        leaves, spec = pytree.tree_flatten(ordered)
        if spec != self.in_spec:
            register(ordered)
            leaves, spec = pytree.tree_flatten(ordered)
        if spec != self.in_spec and not same_form(spec, self.in_spec):
            packed = any(isinstance(value, PackedSequence) for value in ordered)
            advice = (
                ", a PackedSequence among them: pad it, and mask or gather the outputs" * packed
            )
            raise InputError(
                f"the inputs have another structure{advice}; the network takes {takes}"
            )
        for leaf, expected, constant in zip(leaves, self.inputs, self.constants, strict=True):
            if expected is None and leaf != constant:
                raise InputError(
                    f"an input that was {constant!r} at conversion is {leaf!r}; it is part of "
                    "the network now, convert again for another value"
                )
        images = check_shapes(leaves, self.inputs, self.varying)
        if self.bounds is not None and images is not None:
            self.bounds.check(images)
        return [self._laid_out(leaf, torch.channels_last) for leaf in leaves]

    @cached_property
    def _flat(self) -> bool:
        """Whether every input is one tensor, of lengths that are fixed beside the batch."""
        return all(child.is_leaf() for child in self.in_spec.children()) and all(
            i is not None and i.rows is None and not any(isinstance(n, str) for n in i.shape)
            for i in self.inputs
        )

    def _fits(self, args: Sequence[Any]) -> bool:
        """Whether plain tensors are what the network takes: quicker than to say what isn't."""
        if len(args) != len(self.inputs):
            return False
        images = None
        for leaf, expected in zip(args, self.inputs, strict=True):
            assert expected is not None
            if type(leaf) is not Tensor or leaf.dtype is not expected.dtype:
                return False
            shape = leaf.shape
            if len(shape) != len(expected.shape):
                return False
            for found, wanted in zip(shape, expected.shape, strict=True):
                if wanted is None:
                    wanted = images = found if images is None else images
                if found != wanted:
                    return False
        return images is None or self.bounds is None or self.bounds.holds(images)

    def lengths(self, leaves: Sequence[Any]) -> dict[str, int]:
        """The lengths that vary, of flat inputs."""
        return {
            n: leaf.shape[axis]
            for leaf, shape in zip(leaves, self.shapes, strict=True)
            for axis, n in enumerate(shape or ())
            if isinstance(n, str)
        }

    def placed(self, leaves: Sequence[Any]) -> list[tuple[Any, int | None]]:
        """Flat inputs, each with the axis of its images, None where it has none."""
        return list(zip(leaves, self.axes, strict=True))

    def images(self, leaves: Sequence[Any]) -> int:
        """Images of flat inputs."""
        return image_count(leaves, self.axes)

    def pieces(self, leaves: Sequence[Any], count: int) -> list[list[Any]]:
        """Flat inputs cut along the batch into at most `count` pieces; none is empty.

        One piece where the batch must not be cut.
        """
        count = 1 if self.whole else min(count, self.images(leaves))
        if count < 2:
            return [list(leaves)]
        return parts(leaves, self.axes, self.sizes(self.images(leaves), count))

    def sizes(self, images: int, count: int) -> list[int]:
        """Sizes of at least `count` pieces, if there may be so many, of a batch."""
        return (self.bounds or BatchBounds()).sizes(images, count)

    def size_of(self, inputs: Call) -> int:
        """Images of the inputs of a call."""
        counted: list[int] = []

        def count(leaves: Sequence[Any], axes: Axes) -> list[list[Any]]:
            counted.append(image_count(leaves, axes))
            return []

        self._each(inputs, count)
        return counted[0]

    def first(self, inputs: Call, count: int) -> Call:
        """The inputs of a call with its first `count` images alone."""
        return self._each(inputs, lambda leaves, axes: [resized(leaves, axes, count)])[0]

    def cut(self, inputs: Call, sizes: Sequence[int]) -> list[Call]:
        """The inputs of a call cut along the batch into these sizes, each in the same form."""
        return self._each(inputs, lambda leaves, axes: parts(leaves, axes, sizes))

    def _each(
        self, inputs: Call, make: Callable[[Sequence[Any], Axes], list[list[Any]]]
    ) -> list[Call]:
        """Calls of the same form as one, with the flat inputs that are made of its own."""
        args, kwargs = inputs
        counts = [child.num_leaves for child in self.in_spec.children()]
        ends = list(itertools.accumulate(counts, initial=0))
        by_name = {
            name: self.axes[a:b] for name, a, b in zip(self.names, ends, ends[1:], strict=False)
        }
        named = [*zip(self.names, args, strict=False), *kwargs.items()]
        leaves, spec = pytree.tree_flatten(inputs)
        axes: list[int | None] = []
        for name, value in named:
            count = len(pytree.tree_leaves(value))
            known = by_name.get(name, ())
            axes += known if len(known) == count else (None,) * count
        return [pytree.tree_unflatten(made, spec) for made in make(leaves, tuple(axes))]

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """The outputs in the form in which the model returned them."""
        leaves = [self._laid_out(leaf, torch.contiguous_format) for leaf in outputs]
        return pytree.tree_unflatten(leaves, self.out_spec)

    def _laid_out(self, leaf: Any, layout: torch.memory_format) -> Any:
        image = isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point()
        if not self.channels_last or not image or traced() or leaf.device.type != "cpu":
            return leaf
        return leaf.contiguous(memory_format=layout)


@dataclass(frozen=True)
class _Within:
    """Batches, cut to the sizes that a network takes."""

    batches: Iterable[Any]
    signature: Signature
    bounds: BatchBounds
    # Whether some batch must be taken; another process may have it.
    whole: bool = True

    def over(self, share: Iterable[Any], source: Share) -> _Within:
        """The same of one process's batches."""
        return replace(self, batches=share, whole=False)

    def __iter__(self) -> Iterator[Any]:
        signature = self.signature
        size, any_taken = 0, False
        for batch in self.batches:
            given = batch if isinstance(batch, Given) else None
            given = given or BatchReader(signature.parameters).read(batch)
            size = signature.size_of((given.args, given.kwargs))
            sizes = self._sizes(size)
            any_taken |= bool(sizes)
            if self.bounds.holds(size):
                yield given
            else:
                yield from signature.divided(given, size, sizes)
        if size and not any_taken and self.whole:
            self.bounds.check(size)

    def _sizes(self, size: int) -> list[int]:
        """Sizes of the parts that are taken of a batch; one at most where it stays whole."""
        count = self.bounds.part_of(size)
        sizes = self.bounds.sizes(count, 1) if count else []
        return [] if self.signature.whole and len(sizes) > 1 else sizes


def named(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[str, ...], list[str]]:
    """The names of the inputs of a call, and of every flat one; nested ones are numbered."""
    positional: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            break
        positional.append(parameter.name)
    positional += [f"input{i}" for i in range(len(positional), len(args))]
    names = (*positional[: len(args)], *kwargs)
    owners = [
        name if count == 1 else f"{name}[{i}]"
        for name, value in zip(names, [*args, *kwargs.values()], strict=True)
        for count in [len(pytree.tree_leaves(value))]
        for i in range(count)
    ]
    return names, owners
