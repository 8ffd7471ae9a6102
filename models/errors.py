"""Errors of the model zoo and its data."""


class ModelError(Exception):
    """A model or its weights can't be had: the message names it, what was found, the remedy."""


class NoPreprocessingError(ModelError):
    """A model doesn't say what it expects of its inputs; options have to."""


class DataError(Exception):
    """A data source can't be used: the message names it, what was found, the remedy."""
