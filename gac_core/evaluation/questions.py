"""The questions of an evaluation, which the caller hands in: items with one right answer."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gac_core.chat.prompt import Message


class Item(Protocol):
    """A chat that ends with a question, and its one right answer."""

    @property
    def messages(self) -> Sequence[Message]:
        """The chat."""

    @property
    def answer(self) -> str:
        """The right answer."""

    def is_correct(self, text: str) -> bool:
        """Whether a text counts as the right answer."""

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
