"""A model with converted parts: called like the user's, one report, one set of sites."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn

from torch import nn
from torch.fx import GraphModule

from ..calls.batch_forms import Given
from ..calls.batch_reading import BatchReader, read_by
from ..calls.forward_parameters import parameters_of
from ..capture.copying import copy_of
from ..capture.model_kinds import eager_module
from ..common.batches import batches_of
from ..errors import CalibrationError, InputError
from ..network.blocks import Blocks
from ..network.model import SpikingModel
from ..network.run_plan import RunPlan
from ..network.site_map import SiteMap
from .chosen import Chosen
from .origin import Origin
from .part_plans import fit_of_part, plan_of_part
from .recording import PartBatches, Recording
from .report import PartsReport, joined
from .spiking_part import SpikingPart, put_in
from .whole_calls import WholeCall, WholeReader, image_count

# What a model with parts has by itself; everything else is the user's model's.
_OWN = (
    "module training names report fitted_as metadata from_file signature paths known_origin".split()
)


class SpikingParts(SpikingModel):
    """The user's model, in which some modules are converted.

    It is called like the model and has its attributes and methods (`generate`, `config`, ...);
    where both have one of a name, it is this one's, and ``snn.module`` has the model's. Blocks
    (`readout`, `with_steps`, ...) hold for all parts.

    Args:
        module: a copy of the user's model with a `SpikingPart` in the place of each part.
        paths: the names at which each part stands, by its first one.
        report: of all parts.
        lists: whether the model takes the images of a batch as a list.
        origin: which model it was, where that isn't there; see `into`.
    """

    report: PartsReport
    signature: WholeCall

    def __init__(
        self,
        module: nn.Module,
        paths: Mapping[str, tuple[str, ...]],
        report: PartsReport,
        lists: bool = False,
        origin: Origin | None = None,
    ) -> None:
        Blocks.__init__(self, {})
        self.module = module
        self.paths = dict(paths)
        self.report = report
        self.from_file = False
        self.metadata: dict[str, Any] = {}
        self.signature = WholeCall.by(module, lists)
        # None where the model itself is there.
        self.known_origin = origin
        self.names = {
            f"{name}.{site}": f"{place}.network.{path}"
            for name, (place, network) in self._placed().items()
            for site, path in network.names.items()
        }
        for name, network in self.parts.items():
            network.called = f"{name}."
        self.fitted_as = max(network.fitted_as for network in self.parts.values())
        self.train(module.training)

    @property
    def parts(self) -> dict[str, SpikingModel]:
        """The networks by the name of their part; the second form of its calls is ``name#2``."""
        return {name: network for name, (_, network) in self._placed().items()}

    def _placed(self) -> dict[str, tuple[str, SpikingModel]]:
        """The networks, and where in this module they are."""
        found: dict[str, tuple[str, SpikingModel]] = {}
        for part in self.paths:
            stands = self.module.get_submodule(part)
            assert isinstance(stands, SpikingPart)
            for index, network in enumerate(stands.networks):
                assert isinstance(network, SpikingModel)
                name = part if not index else f"{part}#{index + 1}"
                found[name] = f"module.{part}.networks.{index}", network
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the user's model returns, with its parts spiking."""
        return self.module(*args, **kwargs)

    # The user's own attributes.

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self.__dict__.get("_modules", {}).get("module")
            if module is None or name.startswith("__"):
                raise
            return getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        module = self.__dict__.get("_modules", {}).get("module")
        own = name in self.__dict__ or name in _OWN or hasattr(type(self), name)
        if module is None or own or not hasattr(module, name):
            super().__setattr__(name, value)
        else:
            setattr(module, name, value)

    # Neurons and blocks.

    @property
    def sites(self) -> SiteMap:
        """The neuron of every site of every part; inside `with_steps`, of that K."""
        return SiteMap(
            {
                f"{part}.{site}": neuron
                for part, network in self.parts.items()
                for site, neuron in network.sites.items()
            }
        )

    def neuron_of(self, site: str, fit: int | None) -> nn.Module:
        """The neuron of a site: its part's own, or that of another K."""
        for part, network in self.parts.items():
            own = site.removeprefix(f"{part}.")
            if own != site and own in network.names:
                return network.neuron_of(own, fit_of_part(network, fit))
        raise AssertionError(f"no part has the site {site}")

    def _longest(self, fit: int | None) -> int:
        return max(network._longest(fit_of_part(network, fit)) for network in self.parts.values())

    @property
    def check_inputs(self) -> bool:
        """Whether inputs of a part outside its calibrated range are warned about."""
        return all(network.check_inputs for network in self.parts.values())

    @check_inputs.setter
    def check_inputs(self, wanted: bool) -> None:
        for network in self.parts.values():
            network.check_inputs = wanted

    def _masked(self) -> set[str]:
        return {f"{p}.{site}" for p, network in self.parts.items() for site in network._masked()}

    @contextmanager
    def running(self, **changes: Any) -> Iterator[RunPlan]:
        """Changes the plan of the calls of all parts inside the block, in this thread."""
        before = self.plan
        with super().running(**changes) as plan, ExitStack() as stack:
            for part, network in self.parts.items():
                own = plan_of_part(part, network, before, plan, changes)
                stack.enter_context(network.running(**own))
            yield plan

    # What is the model's own matter.

    @property
    def network(self) -> GraphModule:  # type: ignore[override]
        """Refused: there is a graph for each part, and Python around them.

        Raises:
            InputError: with what to take instead.
        """
        self._refuse("this")

    @property
    def exact(self) -> nn.ModuleDict:  # type: ignore[override]
        """Refused like `network`."""
        self._refuse("this")

    @property
    def corrections(self) -> NoReturn:  # type: ignore[override]
        """Refused like `network`."""
        self._refuse("this")

    @property
    def histograms(self) -> dict[str, Any]:  # type: ignore[override]
        """What calibration saw at each site, by its name."""
        return {
            f"{part}.{site}": histogram
            for part, network in self.parts.items()
            for site, histogram in network.histograms.items()
        }

    @property
    def refitted(self) -> nn.ModuleDict:  # type: ignore[override]
        """The neurons of other K of the first part; every part has the same K."""
        return next(iter(self.parts.values())).refitted

    def _refuse(self, what: str) -> NoReturn:
        first = next(iter(self.parts))
        raise InputError(
            f"{what} needs one graph, and a model converted by modules= has one for each part, "
            f"with Python between them; give a part, snn.parts[{first!r}], and "
            f"snn.calls_of({first!r}, data) for its inputs"
        )

    def reader(self) -> BatchReader:
        """What reads the batches of one data source for the model."""
        return WholeReader(parameters_of(self.module), self.signature.lists)

    def export(self, path: str | os.PathLike[str], **options: Any) -> None:
        """Refused: the Python around the parts can't be written.

        Raises:
            InputError: with what to export instead.
        """
        self._refuse("an export")

    def to_spikingjelly(self) -> NoReturn:
        """Refused as an export is.

        Raises:
            InputError: with what to give instead.
        """
        self._refuse("a SpikingJelly module")

    def original(self) -> nn.Module:
        """The user's model with its parts' exact functions, as they were captured.

        It is of the user's class and shares the weights.
        """
        return self._with(lambda network: network.original())

    def _with(self, make: Any) -> nn.Module:
        """A copy of the user's model with other networks; it shares the weights."""
        shared: dict[int, Any] = {id(t): t for t in self.module.state_dict(keep_vars=True).values()}
        stands = {name: self.module.get_submodule(name) for name in self.paths}
        for name, part in stands.items():
            assert isinstance(part, SpikingPart)
            networks = [make(network) for network in part.networks]
            shared[id(part)] = SpikingPart(part.replaced, name, networks, part.alone).eval()
        return copy_of(self.module, shared)[0]

    def unfreeze(self, *, weights: bool = True, neurons: bool = False) -> SpikingParts:
        """Makes the model trainable; freeze it again by ``requires_grad_(False)``.

        Args:
            weights: those of the parts' layers, and of the modules that stay Python.
            neurons: thresholds, resets and output weights of the neurons, which become parameters.
        """
        replaced = {id(p) for part in self.paths for p in self._module_of(part).parameters()}
        inside = {id(p) for network in self.parts.values() for p in network.parameters()}
        for parameter in self.module.parameters() if weights else ():
            if id(parameter) not in replaced | inside and parameter.is_floating_point():
                parameter.requires_grad_()
        for network in self.parts.values():
            network.unfreeze(weights=weights, neurons=neurons)
        return self

    def _module_of(self, part: str) -> nn.Module:
        stands = self.module.get_submodule(part)
        assert isinstance(stands, SpikingPart)
        return stands.replaced

    def latency(self) -> int:
        """Time steps of all calls of all parts, one after the other."""
        rows = {row.name: row for row in self.report.parts}
        parts = self.parts.items()
        return round(sum(rows[name].calls * network.latency() for name, network in parts))

    def calls_of(self, part: str, data: Any) -> list[Given]:
        """What a part is called with while the original runs on data, as batches of that part.

        Args:
            part: a name in `parts`.
            data: batches of the model.

        Raises:
            InputError: for a part that doesn't exist.
            CalibrationError: for one that isn't called on the data.
        """
        if part not in self.parts:
            near = get_close_matches(str(part), self.parts, 3, 0.3) or list(self.parts)[:3]
            raise InputError(f"no part is called {part!r}; there are e.g. {', '.join(near)}")
        _, calls = self.recorded(data, (part.partition("#")[0],))
        if part not in calls:
            raise CalibrationError(
                f"the part {part} isn't called so on this data; give data that reaches it"
            )
        return list(calls[part])

    def recorded(
        self, data: Any, parts: Collection[str] | None = None
    ) -> tuple[Recording, dict[str, PartBatches]]:
        """What the networks of parts are called with while the original runs on data.

        Args:
            data: batches of the model.
            parts: the names of these parts; all if None.

        Returns:
            The recording, and the calls by the name of the network.
        """
        names = self.paths if parts is None else parts
        chosen = [Chosen(name, self.paths[name], True) for name in names]
        batches = read_by(batches_of(data, self.signature.cut_axis), self.reader())
        device = next((t.device for t in self.module.state_dict().values()), None)
        recording = Recording(self.original(), chosen, batches, device, image_count)
        rows = {row.name: row for row in self.report.parts}
        found: dict[str, PartBatches] = {}
        for name, forms in recording.record().items():
            for key, network in self.parts.items():
                if key.partition("#")[0] != name:
                    continue
                for each in forms:
                    each.alone = rows[key].alone
                    call = each.first.batched() if each.alone else each.first
                    if call.fits(network.signature):
                        found[key] = recording.calls(dataclasses.replace(each))
                        break
        return recording, found

    # Files and copies.

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the converted parts to one file.

        `convert.load(path, model=model)` puts them into a copy of the user's model again, which
        isn't in the file.

        Args:
            path: by convention ``*.fsnn``; written whole or not at all.
            metadata: as for `SpikingModel.save`.

        Raises:
            StorageError: naming the operator or value that a file can't hold.
        """
        from ..storage.file import save

        save(self, path, metadata=metadata)

    @property
    def origin(self) -> Origin:
        """Which model this is without its parts."""
        return Origin.of(self.module) if self.known_origin is None else self.known_origin

    def into(self, model: nn.Module) -> SpikingParts:
        """The parts in a copy of the user's model.

        Args:
            model: the model that was converted, with its weights; it is left as it was.

        Raises:
            InputError: for another model, or other weights.
        """
        model = eager_module(model)
        self.origin.check(model, (path for paths in self.paths.values() for path in paths))
        parts = [Chosen(name, paths, True) for name, paths in self.paths.items()]
        off = any("config.use_cache was switched off" in note for note in self.report.about)
        alone = [row.name for row in self.report.parts if row.alone]
        module = put_in(
            copy_of(model)[0], parts, copy.deepcopy(self.parts), alone=alone, caches=not off
        )
        return made(module, self.paths, self.report, self.signature.lists, self.metadata)

    def __reduce__(self) -> Any:
        """For pickle: the user's model by its own code, each part in its own safe format."""
        return made, (
            self.module,
            self.paths,
            # Its operations lie in graphs, which don't pickle.
            dataclasses.replace(self.report, operations=[]),
            self.signature.lists,
            self.metadata,
            self.training,
            self.known_origin,
        )

    def __copy__(self) -> SpikingParts:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__, _blocks=0)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> SpikingParts:
        copied = made(
            copy_of(self.module, memo)[0],
            self.paths,
            self.report,
            self.signature.lists,
            copy.deepcopy(self.metadata),
            self.training,
            self.known_origin,
        )
        copied.from_file = self.from_file
        memo[id(self)] = copied
        return copied


def made(
    module: nn.Module,
    paths: Mapping[str, tuple[str, ...]],
    report: PartsReport,
    lists: bool,
    metadata: dict[str, Any],
    training: bool = False,
    origin: Origin | None = None,
) -> SpikingParts:
    """A model with these parts; its report is put together from theirs and what is said of all."""
    snn = SpikingParts(module, paths, report, lists, origin)
    reports = {name: network.report for name, network in snn.parts.items() if network.report}
    snn.report = joined(
        reports,
        report.parts,
        report.python,
        report.settings,
        report.calibration_images,
        report.about,
    )
    snn.metadata = metadata
    snn.training = training
    return snn
