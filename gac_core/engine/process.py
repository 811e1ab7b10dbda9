"""The one process in which an ensemble answers: threads do not live on in a forked child."""

import os

from gac_core.errors import ForkedError


class OneProcess:
    """The process that first uses an object; forked children of it can not.

    A fork copies memory, but no threads: those of the engine and those with which torch computes
    are missing in the child, and locks that they held stay locked for ever.
    """

    def __init__(self) -> None:
        self._pid: int | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another process than the one that used the object."""
        return self._pid is not None and self._pid != os.getpid()

    def check(self) -> None:
        """Use the object.

        Raises:
            ForkedError: another process has used it.

        """
        if self._pid is None:
            self._pid = os.getpid()
        if self.is_elsewhere:
            raise ForkedError(
                f"the ensemble was loaded in process {self._pid} and can not answer in process "
                f"{os.getpid()}, a fork of it, where its threads are missing; start processes with "
                "the method 'spawn' or 'forkserver' (multiprocessing.get_context), or load it in "
                "the children alone"
            )
