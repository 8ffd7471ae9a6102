"""The one exception family of the package."""


class ConversionError(Exception):
    """A conversion can't go on: the message names the thing, what was found, and the remedy."""


class CaptureError(ConversionError):
    """The model can't be captured as a graph that reproduces it."""


class SiteError(ConversionError):
    """The captured graph has no place for a neuron, or a named site doesn't exist."""


class CalibrationError(ConversionError):
    """The calibration data can't be used."""


class FitError(ConversionError):
    """A neuron can't be fitted to a function."""


class InputError(ConversionError):
    """An argument or an input tensor has a shape, type or value that can't be used."""


class StorageError(ConversionError):
    """A network can't be saved, or a file isn't a network that can be loaded."""


class ResumeError(ConversionError):
    """Stages can't be kept, or those that are kept belong to another run."""


class ExportError(ConversionError):
    """A network can't be written in another format."""


class RangeWarning(UserWarning):
    """An input far outside the range that the neurons were calibrated on."""
