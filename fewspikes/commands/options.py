"""Options that are alike in every command: what each takes, and its help.

Nothing here imports torch: help and refusals come at once. Annotations are no strings here: those
of a class that another module inherits from would be looked up there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter, Token

from . import kinds

MODEL = Group("Model", sort_key=1)
CONVERSION = Group("Conversion", sort_key=2)
DATA = Group("Data", sort_key=3)
MEASURES = Group("Measures", sort_key=4)
GENERAL = Group("General", sort_key=5)

# What an option means that stands without a value, if it isn't a flag.
WITHOUT_VALUE = {"--encode": "operands", "--max-pool": "all", "--json": "-"}

# Those of convert.fitting.methods and convert.evaluation.metrics, which import torch.
Method = Literal["binary", "random", "random-best", "tbpi", "tbpi-exact"]
Effort = Literal["normal", "high"]
DEFAULT_METHOD: Method = "tbpi-exact"
Metric = Literal["accuracy", "agreement", "classes", "iou", "output", "perplexity"]
SOURCES = (
    "cifar10, cifar100, digits, a folder or tar of class folders, shards with .cls files "
    "('train-{000..099}.tar'), an .npz with x and y, or a text file (text.txt[0.9:1] is its last "
    "tenth)"
)

_T = TypeVar("_T")
# An option has one name: no --no-quiet, no --empty-steps; and no value is read as JSON.
_PLAIN = Parameter(negative=(), json_list=False, json_dict=False)


def _option(help: str, group: Group, **more: Any) -> Parameter:
    return Parameter.combine(_PLAIN, Parameter(help=help, group=group, **more))


def value(read: Callable[[str], _T], metavar: str, help: str, group: Group = GENERAL) -> Parameter:
    """An option with one value.

    Args:
        read: makes the value of a text, or raises `kinds.WrongValue`.
        metavar: what stands for the value in the help.
        help: what the option does.
        group: under which it is listed.
    """

    def converted(_: object, tokens: tuple[Token, ...]) -> _T:
        return read(tokens[0].value)

    return _option(help, group, converter=converted, n_tokens=1, metavar=metavar)


def values(read: Callable[[str], _T], metavar: str, help: str, group: Group = GENERAL) -> Parameter:
    """An option with one or more values, as ``--steps 8 4 6``; arguments as for `value`."""

    def converted(_: object, tokens: tuple[Token, ...]) -> list[_T]:
        return [read(token.value) for token in tokens]

    return _option(
        help,
        group,
        converter=converted,
        consume_multiple=1,
        n_tokens=1,
        metavar=f"{metavar}...",
    )


def pair(read: Callable[[str], _T], metavar: str, help: str, group: Group = GENERAL) -> Parameter:
    """An option with two values; arguments as for `value`."""

    def converted(_: object, tokens: tuple[Token, ...]) -> tuple[_T, ...]:
        return tuple(read(token.value) for token in tokens)

    return _option(help, group, converter=converted, n_tokens=2, metavar=metavar)


def text(metavar: str, help: str, group: Group = GENERAL) -> Parameter:
    """An option with any text for its value; arguments as for `value`."""
    return value(str, metavar, help, group)


def choice(help: str, group: Group = GENERAL) -> Parameter:
    """An option with one of a few words, which its type lists; arguments as for `value`."""
    return _option(help, group)


def flag(help: str, group: Group = GENERAL) -> Parameter:
    """An option without a value; arguments as for `value`."""
    return _option(help, group, show_default=False)


def together() -> Parameter:
    """A class of options: each stands for itself."""
    return Parameter(name="*")


Network = Annotated[
    str, text("FILE", "a network that snn.save(FILE) or fewspikes convert wrote", MODEL)
]
Gates = Annotated[
    int,
    value(
        kinds.gates,
        "N",
        "N gates divide a neuron's inputs among N + 1 tables; 0 for one table",
        CONVERSION,
    ),
]
JsonFlag = Annotated[bool, flag("print JSON on stdout, and what is for the reader on stderr")]
JsonFile = Annotated[
    str | None,
    value(kinds.file_or_stdout, "FILE", "write the results as JSON; without FILE to stdout alone"),
]
BatchSize = Annotated[int, value(kinds.whole, "N", "images or texts at once", DATA)]
Device = Annotated[str, text("NAME", "cpu, cuda, cuda:1, mps")]


@dataclass(kw_only=True)
class Common:
    """What every command takes."""

    quiet: Annotated[bool, flag("no progress, results alone")] = False
    traceback: Annotated[bool, flag("show it on an error")] = False


@dataclass(kw_only=True)
class Seeded(Common):
    """What a command takes that draws anything."""

    seed: Annotated[int, value(kinds.seed_number, "N", "of everything that is drawn")] = 0


@dataclass(kw_only=True)
class Reading:
    """How images are read."""

    limit: Annotated[
        int | None,
        value(
            kinds.whole,
            "N",
            "test on N only, drawn by --seed equally from every class; texts evenly from the file",
            DATA,
        ),
    ] = None
    labels: Annotated[
        str,
        text(
            "folder|name|FILE",
            "what tells the class of an image: its folder's place in alphabetical order, its own "
            "name as a number, or a file that lists the class folders in the model's order",
            DATA,
        ),
    ] = "folder"
    batch_size: BatchSize = 250
    workers: Annotated[int, value(kinds.count, "N", "processes that decode images", DATA)] = 0
    corrupt: Annotated[
        Literal["error", "skip"],
        choice(
            "what is done about images that can't be decoded; skip leaves them out and says which",
            DATA,
        ),
    ] = "error"
    corrupt_limit: Annotated[
        int | float,
        value(
            kinds.share_or_count,
            "N|SHARE",
            "the most that --corrupt skip leaves out: images, or a share as 0.02 or 2%",
            DATA,
        ),
    ] = 0.1
    root: Annotated[str, text("DIR", "where torchvision keeps downloads", DATA)] = "data"


@dataclass(kw_only=True)
class Preparing:
    """How images are prepared, in place of what the model or the file says."""

    size: Annotated[
        int | None, value(kinds.whole, "N", "side of the model's input in pixels", DATA)
    ] = None
    mean: Annotated[
        list[float] | None,
        values(kinds.finite, "X", "of the pixels, one for each channel or for all", DATA),
    ] = None
    std: Annotated[
        list[float] | None,
        values(kinds.positive, "X", "standard deviation of the pixels, as --mean", DATA),
    ] = None
    classes: Annotated[int | None, value(kinds.whole, "N", "of the model", DATA)] = None


def given_preparing(options: Preparing) -> dict[str, Any]:
    """The options of `Preparing` by name; None for what isn't given."""
    return {
        "size": options.size,
        "mean": options.mean and tuple(options.mean),
        "std": options.std and tuple(options.std),
        "classes": options.classes,
    }


@dataclass(kw_only=True)
class Tested(Preparing, Reading, Seeded):
    """What every command takes that runs a saved network on data."""
