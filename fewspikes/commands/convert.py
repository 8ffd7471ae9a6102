"""`fewspikes convert`: a model in, a few-spikes network and what was measured of it out."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .conversion_options import CifarOptions, ConvertOptions, Model
from .endings import ended, first_process, processes
from .left_out import told_left_out
from .options import given_preparing, together
from .output import check_room
from .results import as_typed, json_alone

if TYPE_CHECKING:
    import convert
    import models
    from models.sources import Sources

_LIBRARIES = {"timm": ("timm",), "hf": ("transformers",)}
EXAMPLES = """\
Examples:
  fewspikes convert resnet8_digits --data digits --steps 4 --output out
  fewspikes convert resnet20_silu --data cifar10 --steps 8 4 6 --output out
  fewspikes convert timm:vit_tiny_patch16_224 --data val/ \\
      --calibration train/ --steps 4 --gates 3 --output out
  fewspikes convert mine.py:network --data test.npz --calibration train.npz \\
      --steps auto --max-loss 0.01 --output out
"""


def convert_model(model: Model, *, options: Annotated[ConvertOptions, together()]) -> int:
    """Converts a model into a few-spikes network and measures it step by step.

    Takes the models of this package, of torchvision, timm and Hugging Face, and your own, on images
    or texts. The calibration images are drawn equally from every class. Writes the network
    (MODEL.fsnn), report.html, report.json and steps.png.
    """
    return converted(model, options, evenly=True)


def convert_cifar(model: Model, *, options: Annotated[CifarOptions, together()]) -> int:
    """Converts an image classifier into a few-spikes network and measures it step by step.

    As convert.py, but the calibration images are drawn from all, whatever their class.
    """
    return converted(model, options, evenly=False)


def converted(model: str, options: ConvertOptions, *, evenly: bool) -> int:
    """Converts, and ends as every command does.

    Args:
        model: its name.
        options: of the command.
        evenly: draws the calibration images equally from every class.
    """
    run = _Run(model, options, evenly)
    return ended(
        run.whole,
        traceback=options.traceback,
        writes=lambda: (options.output, run.written()),
        kept=run.kept,
    )


def settings(options: ConvertOptions) -> convert.ConversionSettings:
    """What conversion is asked for."""
    import convert

    asked: dict[str, Any] = {
        "steps": options.steps if options.steps != ["auto"] else "auto",
        "max_loss": options.max_loss,
        "budget": options.budget,
        "budget_spikes": options.budget_spikes,
        "budget_operations": options.budget_operations,
        "budget_energy": options.budget_energy,
        "spike_cost": options.spike_cost,
        "seed": options.seed,
        "method": options.method,
        "gates": options.gates,
        "effort": options.effort,
        "sequential": not options.plain,
        "encode": {None: False, "operands": True, "all": "all"}[options.encode],
        "normalisation": options.normalisation,
        "max_pool": {None: False, "all": True, "first": "first"}[options.max_pool],
    }
    if options.modules:
        asked["modules"] = options.modules
    if options.dynamic:
        axes: dict[str, dict[int, str]] = {}
        for name, axis, called in options.dynamic:
            axes.setdefault(name, {})[axis] = called
        asked["dynamic"] = axes
    return convert.ConversionSettings(**asked)


class _Run:
    """One conversion.

    Args:
        model: its name.
        options: of the command.
        evenly: draws the calibration images equally from every class.
    """

    def __init__(self, model: str, options: ConvertOptions, evenly: bool) -> None:
        self._model, self._options, self._evenly = model, options, evenly
        self._saved: Path | None = None

    def written(self) -> list[str]:
        """Names of the files that are written."""
        from fewspikes import models

        names = ["report.json", "steps.png", f"{models.short_name(self._model)}.fsnn"]
        pareto = ["pareto.json", "pareto.png"] if self._options.pareto else []
        return [*names, *pareto, "report.html"]

    def kept(self) -> str:
        """What a run that was stopped leaves, for the line that says so."""
        found: list[str] = []
        resume = self._options.resume
        if self._saved is not None:
            found.append(f"the network is in {self._saved}")
        if processes() > 1:
            return "; ".join(found)
        if resume is None:
            found.append("no stage is kept without --resume DIR")
        elif "convert" in sys.modules:
            from convert.common.kept_stages import kept_in

            told = ", ".join(kept_in(resume)) or "nothing yet"
            found.append(f"kept in {resume}: {told}; the same command goes on from there")
        return "; ".join(found)

    def whole(self) -> None:
        """Converts, evaluates, prints and writes, with all processes of torchrun."""
        import convert
        from convert.common.torchrun import process_group

        options = self._options
        with json_alone(options.json) as tell, process_group(options.device) as device:
            if options.resume is None:
                tell(self._converted(device, None))
                return
            with convert.KeptStages(options.resume) as stages:
                tell(self._converted(device, stages))

    def _weights(self) -> str | None:
        """The weights: of a library's model its own, if no others are named."""
        given, library = self._options.weights, self._model.partition(":")[0]
        if given is not None or library not in ("timm", "torchvision"):
            return given
        print(f"note: the weights are {library}'s own, which it downloads once; --weights FILE or "
              "--weights random are others", file=sys.stderr)  # fmt: skip
        return "DEFAULT"

    def _prepared(self) -> models.Preprocessing | models.TextPreprocessing:
        """What the model expects, with the options in place of its own."""
        from fewspikes import models

        options = self._options
        return models.prepared(
            self._model,
            **given_preparing(options),
            resize=options.resize,
            interpolation=options.interpolation,
            tokenizer=options.tokenizer,
            length=options.length,
        )

    def _opened(
        self, preprocessing: models.Preprocessing | models.TextPreprocessing, by_classes: bool
    ) -> Sources:
        """Test and calibration data."""
        from fewspikes import models

        from .our_models import sources

        options = self._options
        return sources.open_sources(
            options.data,
            options.calibration or options.data,
            preprocessing,
            calibration_size=options.calibration_size,
            limit=options.limit,
            seed=options.seed,
            batch_size=options.batch_size,
            workers=options.workers,
            evenly=self._evenly,
            labelled=by_classes,
            labels=options.labels,
            root=options.root,
            varying=bool(options.dynamic),
            corrupt=models.OnCorrupt(options.corrupt == "skip", options.corrupt_limit),
            progress=not options.quiet,
        )

    def _converted(self, device_name: str, stages: convert.KeptStages | None) -> dict[str, Any]:
        """All stages; returns the report and the places of the files."""
        import convert
        from convert.storage.room import room_for
        from fewspikes import models

        from .our_models import devices, sources

        options = self._options
        asked, bars = settings(options), not options.quiet
        device = devices.device_named(device_name)
        preprocessing = self._prepared()
        metric = sources.check_metric(options.metric, preprocessing)
        calibration = options.calibration or options.data
        sources.check_sources(options.data, calibration, preprocessing, options.labels)
        weights = self._weights()
        model = models.get(
            self._model, weights, options.activation, options.classes, seed=options.seed
        )
        room = room_for(model)
        if first_process():
            check_room(options.output, sum(room))
        if stages is not None:
            stages.check_room(sum(room))
        by_classes = metric in (None, "accuracy")
        data = self._opened(preprocessing, by_classes)
        if by_classes:
            sources.check_classes(model, data, preprocessing.classes)
        self._told_before(data)
        print(f"seed {options.seed}, {preprocessing}")
        draws = sources.drawn(data.calibration, data.test)
        print("".join(f"{line}\n" for line in draws), end="", flush=True)
        snn = convert.to_spiking(
            model.to(device), data.calibration, **asked.to_dict(), resume=stages, progress=bars
        )
        files = [options.output / name for name in self.written()]
        if first_process():
            # An evaluation may take longer than all before it.
            snn.save(files[2], metadata=self._metadata(preprocessing, data))
            self._saved = files[2]
        print(f"\n{snn.report}\n", flush=True)
        if options.audit and first_process():
            print(f"{convert.audit(snn, data.calibration.first(2))}\n", flush=True)
        result = convert.evaluate(
            snn,
            model,
            data.test,
            by_site=options.by_site,
            metric=metric,
            resume=stages,
            progress=bars,
        )
        print(result)
        left_out = sources.left_out(calibration=data.calibration, test=data.test)
        facts = {
            "model": self._model,
            "preprocessing": preprocessing.to_dict(),
            **({"drawn": draws} if draws else {}),
            **told_left_out(options, left_out),
            "versions": self._versions(),
        }
        if first_process():
            result.to_json(files[0], **facts)
            result.plot(files[1])
        if options.pareto:
            self._priced(snn, data, metric, files)
        if first_process():
            convert.write_report(
                files[-1], snn, result, images=data.test.first(8), name=self._model,
                details={"command": as_typed(), "preprocessing": str(preprocessing)},
            )  # fmt: skip
            print(f"\nwritten: {', '.join(map(str, files))}")
        return result.to_dict(**facts) | {"files": list(map(str, files))}

    def _told_before(self, data: Sources) -> None:
        """What a reader of the figures should know, on stderr."""
        if self._options.weights == "random":
            print("warning: random weights: no figure says what a trained network does",
                  file=sys.stderr)  # fmt: skip
        for note in data.notes:
            print(f"note: {note}", file=sys.stderr)

    def _metadata(
        self, preprocessing: models.Preprocessing | models.TextPreprocessing, data: Sources
    ) -> dict[str, Any]:
        """What the network's file says beside the network."""
        return {
            "model": self._model,
            "activation": self._options.activation,
            "preprocessing": preprocessing.to_dict(),
            **({"classes": list(data.classes)} if data.classes else {}),
        }

    def _versions(self) -> dict[str, str]:
        """Of what the figures depend on."""
        names = ("torch", "torchvision", "spikingjelly", "numpy")
        more = _LIBRARIES.get(self._model.partition(":")[0], ())
        return {"python": platform.python_version()} | {n: version(n) for n in (*names, *more)}

    def _priced(
        self, snn: convert.SpikingModel, data: Sources, metric: str | None, files: list[Path]
    ) -> None:
        """Fits the network with other prices of spikes; prints and writes the trade-off."""
        import convert

        options = self._options
        trade_off = convert.pareto(
            snn,
            data.test,
            calibration=data.calibration,
            spike_costs=options.pareto or (),
            steps=[k for k in options.steps if isinstance(k, int)] or None,
            metric=metric,
            progress=not options.quiet,
        )
        print(f"\n{trade_off}")
        if first_process():
            trade_off.to_json(files[3])
            trade_off.plot(files[4])
