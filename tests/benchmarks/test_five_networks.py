"""The table of five networks: which are measured with which data."""

from pathlib import Path
from types import ModuleType

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_FOLDER))
    import five_networks

    return five_networks


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ("", ["resnet8_digits"]),
        ("--data a --calibration b", ["resnet8_digits", "resnet20_silu", "vit_small"]),
        (
            "--data a --calibration b --resnet20 c",
            ["resnet8_digits", "resnet20", "resnet20_silu", "vit_small"],
        ),
        ("--imagenet a --imagenet-calibration b", ["resnet8_digits", "lite1"]),
    ],
)
def test_networks_without_data_are_left_out(
    benchmark: ModuleType, words: str, models: list[str]
) -> None:
    tasks = list(benchmark.tasks(benchmark.parser().parse_args(words.split())))
    assert [task.model.rpartition(":")[2] for task in tasks] == models
    assert all(task.data and task.calibration for task in tasks)


def test_the_command_is_told_with_its_options(benchmark: ModuleType) -> None:
    chosen = benchmark.parser().parse_args("--data x/a.npz --calibration b.npz --out c".split())
    assert benchmark._words(chosen) == " --data a.npz --calibration b.npz"


def test_seconds_of_the_processor(benchmark: ModuleType) -> None:
    before = benchmark.processor_seconds()
    sum(range(3_000_000))
    assert 0 < benchmark.processor_seconds() - before < 30
