"""Several processes that make one call together, and the calls that tests have them make."""

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import convert
from convert.common import ranks


class Raised(Exception):
    """What a process raised: the name of its class, its message, and after how many seconds."""

    def __init__(self, kind: str, message: str, seconds: float) -> None:
        super().__init__(kind, message, seconds)
        self.kind, self.message, self.seconds = kind, message, seconds


def in_processes(
    count: int, folder: Path, function: Callable[..., Any], *arguments: Any, without: int = -1
) -> list[Any]:
    """What ``function(rank, *arguments)`` returns in each of the processes of one gloo group.

    Instead of a result there is a `Raised` of one that raised, and None for one that died, or
    whose answer nobody waits for: that is killed when the others have answered. The function must
    be one of a module that can be imported.
    """
    context, seconds = _server(), 150.0
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    where = f"file://{folder}/group-{time.monotonic_ns()}"
    children = [
        context.Process(target=_child, args=(rank, count, where, send, function, arguments))
        for rank, (_, send) in enumerate(pipes)
    ]
    for child, (_, send) in zip(children, pipes, strict=True):
        child.start()
        send.close()
    found: list[Any] = []
    until = time.monotonic() + seconds
    for rank, (receive, _) in enumerate(pipes):
        if rank == without:
            found.append(None)
            continue
        try:
            ready = receive.poll(max(until - time.monotonic(), 0.1))
            found.append(receive.recv() if ready else TimeoutError(f"after {seconds} s"))
        except EOFError:
            found.append(None)
    for rank, child in enumerate(children):
        child.join(0 if rank == without else 10)
        if child.is_alive():
            child.kill()
            child.join()
    return found


def _server() -> ForkServerContext:
    """Where processes are forked from: it has imported everything, but computed nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.imported"])
    # The server looks for modules where Python does, not where pytest was told to.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return context


def _child(
    rank: int,
    count: int,
    where: str,
    send: Any,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=where, rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    begin = time.monotonic()
    try:
        result = function(rank, *arguments)
    except BaseException as error:
        result = Raised(type(error).__name__, str(error), time.monotonic() - begin)
    send.send(result)
    send.close()
    # Others may still be at work, which the end of the group would break off.
    os._exit(0)


class Classifier(nn.Module):
    """Convolutions with a smooth and a plain activation, on images of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.act, self.smooth = nn.ReLU(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.smooth(self.norm(self.first(x)))
        return self.head(self.act(self.second(x)).mean((2, 3)))


class Reader(nn.Module):
    """A language model of one attention layer, for texts of any length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.act, self.inner = nn.GELU(), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        scores = (x @ x.transpose(1, 2) / 8**0.5).softmax(-1)
        return self.head(self.act(self.inner(scores @ x)))


def image_batches(sizes: tuple[int, ...] = (7, 16, 16, 9, 16, 3)) -> list[tuple[Tensor, Tensor]]:
    """Batches of other sizes, whose values reach further from one to the next."""
    drawn = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, 8, 8, generator=drawn) * (1 + 0.4 * i),
            torch.randint(0, 4, (size,), generator=drawn),
        )
        for i, size in enumerate(sizes)
    ]


def text_batches() -> list[Tensor]:
    """Batches of token ids of two lengths."""
    drawn = torch.Generator().manual_seed(2)
    lengths = (6, 9, 6, 9, 6)
    return [torch.randint(0, 11, (5, length), generator=drawn) for length in lengths]


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """What a report or an evaluation says, but for times."""
    return {
        key: plain(value) if isinstance(value, dict) else value
        for key, value in found.items()
        if key != "seconds"
    }


def converted(
    rank: int, folder: str, kind: str, settings: dict[str, Any]
) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """The bytes of the file, the report and an evaluation of a network of its own."""
    model = (Classifier() if kind == "images" else Reader()).eval()
    data: Any = image_batches() if kind == "images" else text_batches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = convert.to_spiking(model, data, method="binary", progress=False, **settings)
        found = convert.evaluate(
            snn,
            model,
            data,
            metric=None if kind == "images" else "perplexity",
            by_site=12,
            progress=False,
        )
    assert snn.report is not None
    report = plain(snn.report.to_dict())
    # The file holds them, and they are never the same.
    snn.report.seconds.clear()
    path = Path(folder) / f"{kind}-{dist.get_world_size() if started() else 1}-{rank}.fsnn"
    snn.save(path)
    return path.read_bytes(), report, plain(found.to_dict())


def all_converted(rank: int, folder: str, all_settings: list[tuple[str, dict[str, Any]]]) -> Any:
    """What `converted` returns for each kind of data and its settings, one after the other."""
    return [converted(rank, folder, kind, settings) for kind, settings in all_settings]


def started() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_initialized()


def raises_while_calibrating(rank: int, bad: int) -> None:
    """Process number `bad` meets NaN in its third batch."""
    data = image_batches()
    if rank == bad:
        data[2 * 2 + bad][0][0, 0, 0, 0] = float("nan")
    convert.to_spiking(Classifier().eval(), data, steps=3, method="binary", progress=False)


def dies(rank: int) -> None:
    """Process 1 is gone in the middle of a call; the others are told."""
    ranks.BEAT, ranks.PATIENCE = 0.1, 2.0
    with _team("convert") as team:
        team.gather("first", rank)
        if rank == 1:
            os._exit(1)
        team.gather("second", rank)


def hangs(rank: int) -> None:
    """Process 1 goes on living, but no thread of it comes to the next step."""
    ranks.BEAT, ranks.PATIENCE = 0.1, 2.0
    with _team("convert") as team:
        team.gather("first", rank)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        team.gather("second", rank)


def never_calls(rank: int) -> None:
    """Process 1 doesn't make the call."""
    ranks.BEAT, ranks.ENTRY = 0.1, 1.0
    if rank == 1:
        time.sleep(4)
        return
    with _team("convert") as team:
        team.gather("first", rank)


def goes_apart(rank: int) -> None:
    """The processes are at different steps."""
    with _team("convert") as team:
        team.gather("first" if rank else "second", rank)


def gathers(rank: int) -> tuple[list[Any], list[str], list[int]]:
    """Values of every kind in order, the warnings that are shown, and a merged share."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with _team("convert") as team:
            found = team.gather("values", {"rank": rank, "tensor": torch.full((2,), rank)})
            warnings.warn("everybody", stacklevel=1)
            if rank == 2:
                warnings.warn("only process 2", stacklevel=1)
            squares = team.merged("squares", [i * i for i in team.share(list(range(7)))])
    values = [{**each, "tensor": each["tensor"].tolist()} for each in found]
    return values, [str(each.message) for each in shown], squares


def alone(rank: int) -> int:
    """Process 0 converts by itself, and nobody waits."""
    if rank:
        return 0
    with convert.one_process():
        model = Classifier().eval()
        snn = convert.to_spiking(model, image_batches(), steps=3, method="binary", progress=False)
    return len(snn.sites)


def resumes(rank: int, folder: str) -> tuple[list[str], bool]:
    """What is said of stages in several processes; whether anything was made; one alone keeps."""
    model, data, told = Classifier().eval(), image_batches((4, 4)), []
    with convert.one_process():
        kept = {"steps": 3, "method": "binary", "progress": False, "resume": f"{folder}/own{rank}"}
        snn = convert.to_spiking(model, data, **kept)
    together = f"{folder}/kept"
    for call in (
        lambda: convert.to_spiking(model, data, steps=3, resume=together, progress=False),
        lambda: convert.evaluate(snn, model, data, resume=together, progress=False),
        convert.KeptStages(together).__enter__,
    ):
        try:
            call()
        except convert.ConversionError as error:
            told.append(str(error))
    return told, Path(together).exists()


def other_arguments(rank: int, what: str) -> None:
    """Process 1 is given other data, weights or settings, or its part of the data."""
    ranks.HEARD = 60.0
    model, data, steps = Classifier().eval(), image_batches(), 3
    given: Any = data
    if what == "data" and rank:
        given = data[1:]
    if what == "weights" and rank:
        model.head.bias.data += 1e-6
    if what == "settings" and rank:
        steps = 4
    if what == "sampler":
        images = TensorDataset(*(torch.cat(each) for each in zip(*data, strict=True)))
        given = DataLoader(images, 8, sampler=DistributedSampler(images, shuffle=False))
    convert.to_spiking(model, given, steps=steps, method="binary", progress=False)


def evaluated(rank: int, metric: str) -> dict[str, Any]:
    """An evaluation whose outputs go from process to process as they are."""
    model = Classifier().eval()
    data = image_batches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snn = convert.to_spiking(model, data[0][0], steps=3, method="binary", progress=False)
        given: Any = metric
        if metric == "function":
            given = largest
        elif metric == "torchmetrics":
            import torchmetrics

            given = torchmetrics.MeanSquaredError()
            data = [(x, model(x).detach() + 0.1) for x, _ in data]
        return plain(
            convert.evaluate(snn, model, data, metric=given, by_site=9, progress=False).to_dict()
        )


def largest(outputs: Tensor, targets: Tensor) -> float:
    """The mean of the largest outputs."""
    return float(outputs.amax(1).mean())


@contextmanager
def _team(name: str) -> Iterator[ranks.Team]:
    ranks._calls += 1
    team = ranks.Team(name, ranks._calls)
    with team.at_work():
        yield team
