"""The fits of a network's sites, kept: each call of a fit whole, and its tasks while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..common.fingerprints import fingerprint
from ..common.kept_stages import Stages
from ..common.packed_values import packed
from ..fitting.growth import Found
from ..fitting.kept_tasks import KeptTasks, keeping
from ..fitting.methods import fit_problems, is_own
from ..fitting.problem import Problem, Solution, Stairs, Start
from ..network.settings import ConversionSettings

_CLASSES = (Found, Solution, Start)


def fitted(
    problems: Sequence[Problem],
    settings: ConversionSettings,
    stages: Stages,
    name: str,
    *,
    progress: bool = False,
) -> list[Solution]:
    """A solution of every problem; see `fit_problems`.

    Args:
        problems: of a network's sites.
        settings: how they are fitted.
        stages: where solutions are kept. Those of a method that isn't the package's are made anew:
            of its code can't be told whether it is that of the run before.
        name: of the stage.
        progress: shows a bar on stderr.
    """
    fit = partial(
        fit_problems,
        problems,
        settings.method,
        seed=settings.seed,
        effort=settings.effort,
        shared=True,
        progress=progress,
    )
    if not problems or not stages.kept or not is_own(settings.method):
        return fit()
    given = fingerprint([packed(problem, (Problem, Stairs)) for problem in problems])
    own = stages.under(facts=lambda: {"what the sites are fitted to": given})
    tasks = KeptTasks(own, name, _CLASSES)

    def run() -> list[Solution]:
        with keeping(tasks):
            return fit()

    found = own.once(name, run, _CLASSES)
    tasks.forget()
    return found
