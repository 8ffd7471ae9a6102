"""Names that differ, and whose modules differ."""

import time

from convert.sites.names import Names


def test_names_and_paths_differ() -> None:
    taken = Names(["a.relu", "b"])
    wanted = ("a_relu", "a.relu", "b", "b_1", "b", "c")
    assert [taken.unique(name) for name in wanted] == [
        "a_relu_1", "a.relu_2", "b_1", "b_1_1", "b_2", "c",
    ]  # fmt: skip


def test_many_of_one_name_take_no_time() -> None:
    taken = Names()
    started = time.process_time()
    names = [taken.unique("relu") for _ in range(20_000)]
    assert time.process_time() - started < 2
    assert names[0] == "relu" and names[-1] == "relu_19999" and len(set(names)) == 20_000
