"""One request: the object through which a decoding method asks, reads, fuses and emits.

A method asks for logits (`Request.ask`), reads them as distributions (`read`), perhaps fuses these
(`fuse`), and emits (`emit_alone`, `emit_fused`), which extends all histories.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from typing import Any, Self

import torch

from gac_core.decoding.answer import Answer
from gac_core.decoding.mixing import Fused, Mixer
from gac_core.decoding.part import TEXT, Part
from gac_core.decoding.readers import READERS
from gac_core.decoding.shared_state import SharedState
from gac_core.errors import MethodError
from gac_core.fusion.rules import Rule
from gac_core.grammar.constraint import Constraint
from gac_core.members.base import Answers, Ask
from gac_core.method_specs import SpaceName
from gac_core.outputs import Step
from gac_core.sampling_params import SamplingParams
from gac_core.tokens.history import History
from gac_core.tokens.spaces import Space


class Request:
    """The state of one request that methods work on.

    A method yields what `ask` and the `emit` calls give: an `Ask`, or a `Step`.

    Args:
        shared: the state that all requests of the ensemble share.
        prompts: each member's prompt ids.
        sampling: how to draw; its seed is set.
        part: what is written: the rest of a text, a thought, or an answer.
        constraint: the grammar the answer is held to.

    Attributes:
        members: of the ensemble; methods name them by their index.
        primary: the index of the member that gates and drafts ask first.
        union: the union of their vocabularies.
        primary_rows: the primary's own rows, as a space to choose from.
        config: the ensemble's options.
        options: the method's own, an instance of its spec's `options`.
        resource: what the method's spec made for all requests.
        sampling: how to draw.
        part: what is written: the rest of a text, a thought, or an answer.
        answer: the text written so far, in each member's ids.
        mixer: the members' distributions, over their own rows and the union, and their weights.
        finished: set by the driver when the answer has ended.

    """

    def __init__(
        self,
        shared: SharedState,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        part: Part = TEXT,
        *,
        constraint: Constraint | None = None,
    ) -> None:
        self.members = shared.members
        self.union = shared.union
        self.config = shared.config
        self.primary = shared.config.primary
        self.primary_rows = shared.primary_rows
        self.options: Any = shared.config.options
        self.resource = shared.resource
        self.sampling = sampling
        self.part = part
        self.finished = False
        self.answer = Answer(shared, prompts, sampling, part, constraint=constraint)
        self.mixer = Mixer(shared, self.answer)
        self._shared = shared
        self._reader = READERS[shared.space](self.mixer)

    @property
    def others(self) -> tuple[int, ...]:
        """The indices of all members but the primary."""
        return tuple(m for m in range(len(self.members)) if m != self.primary)

    @property
    def histories(self) -> tuple[History, ...]:
        """What each member has read, by member index."""
        return self.answer.histories

    @property
    def position(self) -> int:
        """The number of units that were emitted."""
        return self.answer.position

    @property
    def steps_left(self) -> int:
        """The number of units that may still be emitted."""
        return self.answer.steps_left

    @property
    def space(self) -> SpaceName:
        """In which the members meet."""
        return self._shared.space

    def rows_of(self, member: int) -> Space:
        """The space in which a member drafts, by its index."""
        return self.union if self.space == "tokens" else self._shared.own_rows(member)

    def fork(self, *, free: bool = False) -> Self:
        """A copy to try continuations on, which leaves this one as it is; `free` of the grammar."""
        other = copy(self)
        other.answer = self.answer.fork(free=free)
        other.mixer = self.mixer.fork(other.answer)
        other._reader = self._reader.fork(other.mixer)
        return other

    # ------------------------------------------------ asking and reading

    def prepare(self) -> Generator[Ask, Answers, None]:
        """Ask what the weighting has to know before the first step; called by the driver."""
        yield from self.mixer.start()

    def look(
        self, *members: int, hidden: bool = False, threshold: float | None = None
    ) -> Generator[Ask, Answers, dict[int, torch.Tensor]]:
        """Ask what members hold likely to come next; in any space.

        Args:
            members: their indices; all without any.
            hidden: whether the primary's last hidden state is wanted, too; see `hidden`.
            threshold: whether the largest probability exceeds it will be asked.

        Returns:
            By member index, of mass 1: the primary over its own rows, (vocab_size,); others over
            theirs in space tokens, over the primary's in space scored, over `BYTES` in space bytes.

        Raises:
            NonFiniteLogitsError: some logits are NaN, infinite or all masked.

        """
        return (yield from self._reader.look(members, hidden=hidden, threshold=threshold))

    @property
    def hidden(self) -> torch.Tensor | None:
        """The primary's last hidden state, (hidden_size,), after `look` with `hidden`."""
        return self.mixer.hidden

    def ask(self, *members: int, hidden: bool = False) -> Ask:
        """Ask for the next-token logits of these members, or of all.

        Args:
            members: their indices; all without any.
            hidden: whether the last hidden state is wanted, too; see `Scored.hidden`.

        """
        return self.mixer.ask(members, hidden=hidden)

    def read(self, answers: Answers) -> dict[int, torch.Tensor]:
        """What each member that was asked holds likely, over its own rows, by member index.

        (vocab_size,) of mass 1 each; 0 where a row is neither text nor END.

        Args:
            answers: to `ask`.

        Raises:
            NonFiniteLogitsError: some logits are NaN, infinite or all masked.
            MethodError: the ask was not yielded.

        """
        return self.mixer.read(answers)

    # ------------------------------------------------ deciding

    def fuse(self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """Fuse what some members hold likely into one distribution over the ensemble's space.

        Args:
            looks: by member index, as `look` or `read` gives them.
            rule: to use instead of the ensemble's.

        Raises:
            MethodError: the weighting gave no weights.

        """
        return self._reader.fuse(looks, rule)

    def legal(self, probs: torch.Tensor, space: Space | None = None) -> torch.Tensor:
        """A distribution given what the grammar allows next; unchanged without a grammar.

        Args:
            probs: over the space, (size,).
            space: the space whose rows they are; the primary's own rows by default, which are
                unchanged where the grammar is one of bytes.

        Returns:
            (size,) of mass 1; all 0 if nothing that the grammar allows has any probability.

        """
        if space is None and self.answer.is_held_to_bytes:
            return probs
        return self.answer.legal(probs, space or self.primary_rows)

    # ------------------------------------------------ emitting

    def write(
        self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None
    ) -> Generator[Ask | Step, Answers, None]:
        """Write the next step as some members have it; in any space.

        The primary's token if only it is given, else what all of them decide together. In the
        space of bytes members may have to be asked further, and an end may make a second step.

        Args:
            looks: by member index, as `look` gives them.
            rule: to use instead of the ensemble's.

        Raises:
            MethodError: rule or weighting gave no distribution.

        """
        yield from self._reader.write(looks, rule)

    def emit_fused(self, fused: Fused, minus: torch.Tensor | None = None) -> Step:
        """Choose a unit from the fused distribution and write it to every history.

        Args:
            fused: as `fuse` gives it.
            minus: draw from the residual of speculative sampling, max(0, fused - minus), after a
                unit that was drawn from `minus` was rejected; (size,) in float64 on the CPU.

        Raises:
            MethodError: it is no distribution over the union.

        """
        if not isinstance(fused, Fused):
            raise MethodError(
                "what is emitted must be a Fused with probabilities over the union, not a "
                f"{type(fused).__name__}; `fuse` gives one"
            )
        rows = self._shared.step_rows
        return self._reader.emit(fused.probs, rows, fused.views, minus=minus, agreed=fused.agreed)

    def emit_alone(self, probs: torch.Tensor, token: int | None = None) -> Step:
        """Choose a token from the primary's own distribution and write it to every history.

        Args:
            probs: over the primary's rows, (vocab_size,).
            token: the token's id, if it is chosen already.

        """
        views = {self.primary: probs}
        return self._reader.emit(probs, self.primary_rows, views, row=token)

    def emit(
        self,
        probs: torch.Tensor,
        space: Space,
        views: Mapping[int, torch.Tensor],
        *,
        row: int | None = None,
        minus: torch.Tensor | None = None,
    ) -> Step:
        """Choose a unit from a distribution over any space and write it to every history.

        Args:
            probs: over the space, (size,).
            space: the space whose rows they are: the union, `BYTES`, or `primary_rows`.
            views: the distributions of the members that were asked, by member index, (size,) each.
            row: the row, if it is chosen already.
            minus: see `emit_fused`.

        Raises:
            MethodError: it is no distribution over the space.

        """
        return self._reader.emit(probs, space, views, row=row, minus=minus)


Decoder = Generator[Ask | Step, Answers, None]
Method = Callable[[Request], Decoder]
