"""One way in which a member's tokens cover the text, and what it says may come next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Distribution:
    """What a member holds likely after the ids of a path; shared by the paths that go on from it.

    Args:
        rows: the probabilities over the member's own rows, (vocab_size,).

    Attributes:
        rows: the same.

    """

    def __init__(self, rows: NDArray[np.floating]) -> None:
        self.rows = rows
        self._ordered: Floats | None = None

    def ordered(self, ids: NDArray[np.intp]) -> Floats:
        """The probabilities in the order of the sorted tokens, (tokens,); made once.

        Args:
            ids: of the sorted tokens, always the same.

        """
        if self._ordered is None:
            self._ordered = self.rows[ids].astype(np.float64)
        return self._ordered


@dataclass(eq=False)
class Path:
    """One way in which tokens cover the text.

    Attributes:
        ids: of the prompt and of the tokens that are complete.
        mass: its share of all paths of the member.
        pending: bytes of the text with which the unfinished next token begins.
        ahead: bytes beyond the text that the complete tokens cover; none if some are pending.
        after: the member's distribution after `ids`; None before the path's forward pass.
        low: index of the first of the sorted tokens that begin with `pending` and are longer.
        high: index after the last of them.
        without: of these, the ids of tokens that are paths of their own.
        scale: by which the probabilities of the tokens that are left are multiplied; with `end`
            they sum to 1.
        end: the probability of END; 0 within a token.

    """

    ids: Sequence[int]
    mass: float = 1.0
    pending: bytes = b""
    ahead: bytes = b""
    after: Distribution | None = None
    low: int = 0
    high: int = 0
    without: tuple[int, ...] = ()
    scale: float = 1.0
    end: float = 0.0

    @property
    def rows(self) -> NDArray[np.floating]:
        """The member's distribution after `ids` over its own rows, (vocab_size,)."""
        assert self.after is not None, "queries were not answered"
        return self.after.rows


@dataclass(frozen=True)
class Leaf:
    """A way in which a member's text may go on.

    Attributes:
        text: the bytes that come next, up to the end of a token.
        mass: its probability.
        is_end: whether the answer ends after these bytes.
        may_end: whether it may begin the next turn, so that the answer ends before it.
        path: the path that goes on so.
        token: the id that does; None for an end.

    """

    text: bytes
    mass: float
    is_end: bool
    may_end: bool
    path: Path
    token: int | None = None


def rank(path: Path) -> tuple[float, int, Sequence[int]]:
    """What paths are sorted by, the best first."""
    return -path.mass, len(path.pending), path.ids


def share(path: Path, part: float) -> Iterator[Path]:
    """The path when only a part of its mass is left, if any is."""
    if part > 0:
        yield replace(path, mass=path.mass * part, scale=path.scale / part, end=path.end / part)
