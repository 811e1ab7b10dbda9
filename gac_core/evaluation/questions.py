"""The questions of an evaluation, which the caller hands in, and how they are judged."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gac_core.chat.prompt import Prompt


class Item(Protocol):
    """A question, and what counts as its right answer."""

    @property
    def prompt(self) -> Prompt:
        """A chat that ends with the question, or a raw text to go on with."""

    @property
    def max_new_tokens(self) -> int:
        """The most steps an answer may take."""

    def is_correct(self, text: str, *, is_cut: bool = False) -> bool:
        """Whether a text counts as the right answer.

        Args:
            text: the answer.
            is_cut: whether a limit cut its end.

        """

    def vote_key(self, text: str) -> Hashable:
        """What is equal for two texts if they count as the same answer."""


Draw = Callable[[int, int], Iterable[Item]]  # (count, seed): as many items, the same for a seed


@dataclass(frozen=True)
class TaskSet:
    """Tasks by name, each with what draws its items.

    Attributes:
        tasks: those that are asked if none are named.
        by_name_only: those that are asked only if they are named.

    """

    tasks: Mapping[str, Draw]
    by_name_only: Mapping[str, Draw] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All tasks."""
        return (*self.tasks, *self.by_name_only)

    def items(self, names: Sequence[str], count: int, seed: int) -> dict[str, list[Item]]:
        """As many items of each of these tasks; of all in `tasks` if none are named."""
        draws = {**self.tasks, **self.by_name_only}
        return {name: list(draws[name](count, seed)) for name in names or self.tasks}
