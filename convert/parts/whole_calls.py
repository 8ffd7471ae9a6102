"""How the whole model is called: batches in the form that it takes, detectors' lists of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from ..calls.batch_forms import Given
from ..calls.batch_layout import Axes, Layout
from ..calls.batch_parts import with_tensors
from ..calls.batch_reading import BatchReader
from ..calls.call_signature import Signature
from ..calls.forward_parameters import Parameters, parameters_of
from ..errors import InputError


class WholeReader(BatchReader):
    """Reads batches for a model of which parts are converted.

    Args:
        parameters: what the model takes.
        lists: whether it takes the images of a batch as a list.
    """

    def __init__(self, parameters: Parameters, lists: bool) -> None:
        super().__init__(parameters)
        self.lists = lists

    def read(self, batch: Any) -> Given:
        """A batch's inputs and its label; see `BatchReader.read`."""
        if not isinstance(batch, Given):
            batch = with_tensors(batch)
            listed = as_list(batch, self.parameters) if self.lists else None
            batch = listed or _packed(batch) or batch
        if isinstance(batch, Given) and not any(
            isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((batch.args, batch.kwargs))
        ):
            self.count += 1
            return batch
        return super().read(batch)


def as_list(batch: Any, parameters: Parameters) -> Given | None:
    """A batch of single images as one input, a list; None for one of another form.

    Args:
        batch: ``[image, ...]``, ``(images, label)`` or one image ``[C, H, W]``.
        parameters: what the model takes.
    """
    if parameters.least > 1:
        return None
    names = (parameters.first,)
    if isinstance(batch, Tensor):
        return Given(([batch],), {}, names=names) if batch.dim() == 3 else None
    if not isinstance(batch, tuple | list) or not batch or hasattr(batch, "_fields"):
        return None
    if _are_images(batch):
        return Given((list(batch),), {}, names=names)
    images, *label = batch
    if not isinstance(images, tuple | list) or not _are_images(images):
        return None
    place = 1 if label else None
    return Given((list(images),), {}, label[0] if label else None, names, place)


def _are_images(values: Sequence[Any]) -> bool:
    return len(values) > 0 and all(isinstance(v, Tensor) and v.dim() == 3 for v in values)


def _packed(batch: Any) -> Given | None:
    """A batch that is a packed sequence, or begins with one."""
    if isinstance(batch, PackedSequence):
        return Given((batch,), {}, names=("input",))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], PackedSequence):
        label = batch[1] if len(batch) > 1 else None
        return Given((batch[0],), {}, label, ("input",), 1 if len(batch) > 1 else None)
    return None


def reader_for(model: nn.Module, batch: Any, call: Any) -> WholeReader:
    """What reads the batches of a data source of which this is the first.

    Args:
        model: the whole.
        batch: the first batch.
        call: calls the model with a batch that was read; raises what the model raises.
    """
    parameters = parameters_of(model)
    listed = as_list(with_tensors(batch), parameters)
    if listed is None:
        return WholeReader(parameters, lists=False)
    # A stack of images is one tensor; a single one is a batch only where nothing else will do.
    order = (False, True) if isinstance(batch, Tensor) else (True, False)
    failures: list[Exception] = []
    for lists in order:
        try:
            call(WholeReader(parameters, lists).read(batch))
        except Exception as error:
            failures.append(error)
            continue
        return WholeReader(parameters, lists)
    return WholeReader(parameters, lists=order[0])


def image_count(given: Given) -> int:
    """The images of a batch: the length of a list of them, else of the first axis of a tensor."""
    for value in (*given.args, *given.kwargs.values()):
        if isinstance(value, PackedSequence):
            return int(value.batch_sizes[0])
        if isinstance(value, list) and _are_images(value):
            return len(value)
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor) and leaf.dim():
                return int(leaf.shape[0])
    raise InputError("a batch holds no tensor with a batch dimension")


@dataclass(frozen=True)
class WholeCall(Signature):
    """How a model with converted parts is called: as Python likes; no batch is ever cut."""

    lists: bool = False

    @classmethod
    def by(cls, model: nn.Module, lists: bool) -> WholeCall:
        """That of a model.

        Args:
            model: the user's.
            lists: whether it takes the images of a batch as a list.
        """
        leaf = pytree.tree_structure(0)
        names = parameters_of(model).known
        return cls(names, (), (), leaf, leaf, lists=lists)

    @property
    def whole(self) -> bool:
        """True: a part may do something else where it gets less at once."""
        return True

    @property
    def axes(self) -> Axes:
        """None are known."""
        return ()

    @property
    def cut_axis(self) -> int | None:
        """One tensor of all images is cut along its first axis."""
        return 0

    def layouts(self, count: int) -> tuple[Layout, ...]:
        """Images come first in every output."""
        return (Layout(),) * count

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The inputs as they are; the model itself says what is wrong with them."""
        return [Given(tuple(args), dict(kwargs))]

    def placed(self, leaves: Sequence[Any]) -> list[tuple[Any, int | None]]:
        """The tensors of the inputs; images are first in those that are as long as the batch."""
        call, count = leaves[0], (self.images(leaves),)
        tensors = [t for t in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
        return [(tensor, 0 if tensor.shape[:1] == count else None) for tensor in tensors]

    def images(self, leaves: Sequence[Any]) -> int:
        """Images of what `flatten` gives."""
        return image_count(leaves[0])

    def size_of(self, inputs: Any) -> int:
        """Images of the inputs of a call."""
        return image_count(Given(*inputs))

    def taken(self, batch: Given) -> Iterable[Given]:
        """The batch."""
        return [batch]

    def within(self, batches: Iterable[Any]) -> Iterable[Any]:
        """The batches."""
        return batches

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Not known; see the model."""
        raise InputError("the model with its parts puts its outputs together itself")

    def renamed(self, names: Sequence[str]) -> WholeCall:
        """The same with other names of inputs."""
        return replace(self, names=tuple(names))
