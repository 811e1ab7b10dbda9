"""Errors of gac_core as those that a framework knows."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gac_core import GacError


class DeadlineError(GacError, TimeoutError):
    """The answer was not complete in time."""


@contextmanager
def translated(table: Mapping[type[GacError], type[Exception]]) -> Iterator[None]:
    """Raise the errors of gac_core that are in a framework's table as that framework's own.

    Args:
        table: the framework's error class for each of gac_core's. A class that is not in the table
            is translated as the nearest of its base classes that is.

    """
    try:
        yield
    except GacError as error:
        for kind in type(error).__mro__:
            if (theirs := table.get(kind)) is not None:
                raise theirs(str(error)) from error
        raise
