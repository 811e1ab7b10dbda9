"""How the members of a request meet: in the union of tokens, in scored tokens, or byte by byte.

A method looks at what members hold likely and lets some of them write the next step; what they are
asked for, and what a step is chosen from, is a matter of the space. There is a class for each.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Final, Self

import torch

from gac_core.decoding.mixing import Fused, Mixer
from gac_core.decoding.paths import Paths
from gac_core.decoding.proof import Bounds
from gac_core.decoding.sampling import top_row
from gac_core.decoding.scoring import Candidates, agreed, leaf_to_grow, score
from gac_core.fusion.rules import Rule
from gac_core.members.base import Answers, Ask, Query
from gac_core.outputs import MemberView, Step
from gac_core.tokens.spaces import BYTES, Space

_SCORING_PATHS: Final = 16  # kept per helper that scores tokens, most of which need no pass
_NEGLIGIBLE: Final = 0.05  # of the best path's mass; a helper is asked about no lighter one

Looks = dict[int, torch.Tensor]  # what members hold likely, by member index


class TokenReader:
    """Members meet in the union of their tokens, as GaC was published.

    Base of the readers of other spaces.

    Args:
        mixer: of the request.

    """

    def __init__(self, mixer: Mixer) -> None:
        self._mixer = mixer

    def fork(self, mixer: Mixer) -> Self:
        """A reader for a fork of the request.

        Args:
            mixer: of the fork.

        """
        other = copy(self)
        other._mixer = mixer
        return other

    def look(
        self, members: tuple[int, ...], *, hidden: bool = False, threshold: float | None = None
    ) -> Generator[Ask, Answers, Looks]:
        """See `Request.look`."""
        answers = yield self._mixer.ask(members, hidden=hidden)
        looks = self._mixer.read(answers)
        if threshold is None:
            return looks
        bounds = self._mixer.bounds(looks)
        doubtful = [m for m in bounds if not bounds[m].tells(threshold)]
        return (yield from self._look_again(looks, doubtful))

    def _look_again(
        self, looks: Mapping[int, torch.Tensor], members: Sequence[int]
    ) -> Generator[Ask, Answers, Looks]:
        """The looks, with all tokens of some members."""
        if not members:
            return dict(looks)
        queries = self._mixer.ask(members).queries
        whole = {m: tuple(replace(q, whole=True) for q in asked) for m, asked in queries.items()}
        return {**looks, **self._mixer.read((yield Ask(whole)))}

    def _is_proven(self, looks: Mapping[int, torch.Tensor]) -> bool:
        """Whether what is not known of some looks can not change what is written."""
        mixer, primary = self._mixer, self._mixer.shared.config.primary
        bounds = mixer.bounds(looks)
        if not bounds:
            return True
        if mixer.answer.forced is not None:  # whose probabilities are what is wanted
            return False
        if looks.keys() == {primary} and len(mixer.shared.members) > 1:
            return bounds[primary].proves(top_row(bounds[primary].low))
        if mixer.answer.leading_space.members_differ:  # a choice between two spellings, too
            return False
        views = [
            mixer.bounds_over_union(m, bounds.get(m) or Bounds.known(looks[m]))
            for m in sorted(looks)
        ]
        weights = mixer.weights_of(sorted(looks), views[0].low)
        fused = Bounds(
            weights @ torch.stack([view.low for view in views]),
            weights @ torch.stack([view.high for view in views]),
        )
        row = top_row(fused.low)
        # Whether a member would have chosen the same decides how its history goes on.
        return fused.proves(row) and all(v.proves(row) or v.refutes(row) for v in views)

    def fuse(self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """See `Request.fuse`."""
        mixer = self._mixer
        return mixer.fuse({m: mixer.to_union(m, looks[m]) for m in sorted(looks)}, rule)

    def write(
        self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None
    ) -> Generator[Ask | Step, Answers, None]:
        """See `Request.write`."""
        shared = self._mixer.shared
        primary = shared.config.primary
        if not self._is_proven(looks):
            looks = yield from self._look_again(looks, sorted(self._mixer.bounds(looks)))
        if looks.keys() == {primary} and len(shared.members) > 1:
            yield self.emit(looks[primary], shared.primary_rows, looks)
        else:
            fused = self.fuse(looks, rule)
            yield self.emit(fused.probs, shared.step_rows, fused.views, agreed=fused.agreed)

    def emit(
        self,
        probs: torch.Tensor,
        space: Space,
        views: Mapping[int, torch.Tensor],
        *,
        row: int | None = None,
        minus: torch.Tensor | None = None,
        agreed: bytes = b"",
    ) -> Step:
        """See `Request.emit`."""
        self._mixer.check(probs, space)
        step = self._mixer.answer.emit(probs, space, views, row=row, minus=minus, agreed=agreed)
        self._wrote(step.unit)
        return step

    def _wrote(self, unit: bytes) -> None:
        """Take note of a unit that was written to all histories."""


class PathReader(TokenReader):
    """Base of the readers that follow how members' tokens cover the text.

    Args:
        mixer: of the request.

    """

    def __init__(self, mixer: Mixer) -> None:
        super().__init__(mixer)
        self._paths: dict[int, Paths] = {}

    def _paths_of(self, member: int, most: int, least: float) -> Paths:
        own, part = self._mixer.shared.members[member], self._mixer.answer.part
        return Paths(
            self._mixer.answer.histories[member],
            own.tokenizer,
            most,
            least=least,
            leading_space=part.begins_turn and own.leading_space,
            next_turns=part.next_turns(member, own),
            allowed=_allowed_bytes(self._mixer),
        )

    def fork(self, mixer: Mixer) -> Self:
        """A reader for a fork of the request, with paths of its own."""
        other = super().fork(mixer)
        histories = mixer.answer.histories
        allowed = _allowed_bytes(mixer)
        other._paths = {m: paths.fork(histories[m], allowed) for m, paths in self._paths.items()}
        return other

    def _ask(
        self, queries: dict[int, tuple[Query, ...]], *, hidden: bool = False
    ) -> Generator[Ask, Answers, Answers]:
        """Ask members what their paths need; a weighting by the text may need more positions."""
        mixer, primary = self._mixer, self._mixer.shared.config.primary
        wide = {m: mixer.widened(m, asked) for m, asked in queries.items()}
        if hidden and primary in wide:
            first, *others = wide[primary]
            wide[primary] = (replace(first, hidden=True), *others)
        answers = yield Ask(wide)
        mixer.keep_hidden(answers)
        for m, asked in queries.items():
            if m in self._paths:
                if not self._paths[m].is_beyond_text:
                    mixer.see(m, wide[m][0], answers[m][0].logits)
                self._paths[m].read(
                    [
                        [
                            mixer.to_probs(
                                m, scored.logits[-n], query.ids[: len(query.ids) - n + 1]
                            )
                            for n in range(query.last, 0, -1)
                        ]
                        for query, scored in zip(asked, answers[m], strict=True)
                    ]
                )
        return answers


class ScoringReader(PathReader):
    """Members meet in the primary's tokens, which the others score as the bytes they stand for."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__(mixer)
        primary = mixer.shared.config.primary
        self._paths = {
            m: self._paths_of(m, _SCORING_PATHS, _NEGLIGIBLE)
            for m in range(len(mixer.shared.members))
            if m != primary
        }
        self._candidates: Candidates | None = None  # of the primary, at this step
        self._is_first_step = mixer.answer.part.begins_turn

    def look(
        self,
        members: tuple[int, ...],
        *,
        hidden: bool = False,
        threshold: float | None = None,  # noqa: ARG002  (all is known)
    ) -> Generator[Ask, Answers, Looks]:
        """See `Request.look`; over the primary's rows, (size,) each."""
        mixer, primary = self._mixer, self._mixer.shared.config.primary
        members = members or tuple(range(len(mixer.shared.members)))
        helpers = [m for m in members if m != primary]
        looks: Looks = {}
        queries: dict[int, tuple[Query, ...]] = {}
        if primary in members or self._candidates is None:
            queries[primary] = tuple(mixer.ask((primary,)).queries[primary])
        queries |= {m: asked for m in helpers if (asked := self._paths[m].catch_up())}
        # Helpers within a token are asked nothing at first, but perhaps what comes after it.
        while queries or (queries := self._all_further(helpers)):
            answers = yield from self._ask(queries, hidden=hidden)
            if primary in queries:
                looks = mixer.read({primary: answers[primary]})
                self._candidates = self._see(looks[primary])
            queries = {}
        if primary not in members:
            looks.pop(primary, None)
        return looks | {m: self._score(m) for m in helpers}

    def _see(self, own: torch.Tensor) -> Candidates:
        shared = self._mixer.shared
        primary = shared.members[shared.config.primary]
        has_space = primary.leading_space and self._is_first_step
        return Candidates(
            primary.tokenizer.vocabulary,
            own.cpu().to(torch.float64).numpy(),
            b" " if has_space else b"",
        )

    def _all_further(self, helpers: Sequence[int]) -> dict[int, tuple[Query, ...]]:
        return {m: asked for m in helpers if (asked := self._further(m))}

    def _further(self, member: int) -> tuple[Query, ...]:
        """What a helper must be asked further at this step."""
        paths = self._paths[member]
        assert self._candidates is not None, "the primary is asked first"
        while not (queries := paths.queries()):
            leaf = leaf_to_grow(paths, self._candidates)
            if leaf is None:
                break
            paths.grow(leaf)
        return queries

    def _score(self, member: int) -> torch.Tensor:
        shared = self._mixer.shared
        assert self._candidates is not None, "the primary is asked first"
        tokens = shared.members[member].tokenizer.sorted_tokens
        rows = score(self._paths[member], tokens, shared.first_tokens, self._candidates)
        scores = torch.from_numpy(rows)
        if shared.union.device.type == "mps":  # which has no float64
            scores = scores.float()
        return scores.to(shared.union.device)

    def fuse(self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """See `Request.fuse`; over the primary's rows, its ends in one."""
        mixer, primary = self._mixer, self._mixer.shared.config.primary
        views = {m: looks[m] for m in sorted(looks)}
        ends = sorted(mixer.shared.members[primary].tokenizer.vocabulary.end_ids)
        if primary in views and len(ends) > 1:
            own = views[primary].clone()
            own[ends] = 0.0
            own[ends[0]] = views[primary][ends].sum()
            views[primary] = own
        fused = mixer.fuse(views, rule)
        if len(views) < len(mixer.shared.members) or self._candidates is None:
            return fused
        return replace(fused, agreed=agreed(self._candidates, list(self._paths.values())))

    def _wrote(self, unit: bytes) -> None:
        for paths in self._paths.values():
            paths.extend(unit)
        self._candidates = None
        self._is_first_step = False


class ByteReader(PathReader):
    """Members meet byte by byte (CharED, https://arxiv.org/abs/2407.11009).

    A step is a token of the primary: the bytes up to the next place at which the most probable of
    the primary's paths has the end of a token.
    """

    def __init__(self, mixer: Mixer) -> None:
        super().__init__(mixer)
        paths = mixer.shared.config.paths
        most = 1 if paths == "top" else paths
        self._paths = {m: self._paths_of(m, most, 0.0) for m in range(len(mixer.shared.members))}

    def look(
        self,
        members: tuple[int, ...],
        *,
        hidden: bool = False,
        threshold: float | None = None,  # noqa: ARG002  (all is known)
    ) -> Generator[Ask, Answers, Looks]:
        """See `Request.look`; of the primary over its own rows, of others over `BYTES`."""
        primary = self._mixer.shared.config.primary
        members = members or tuple(range(len(self._mixer.shared.members)))
        for m in members:
            self._paths[m].catch_up()
        yield from self._read(members, hidden=hidden)
        looks = {m: self._next_byte(m) for m in members if m != primary}
        if primary in members:
            paths = self._paths[primary]
            looks[primary] = paths.next_tokens() if paths.own is None else paths.own
        return looks

    def _read(
        self, members: tuple[int, ...], *, hidden: bool = False
    ) -> Generator[Ask, Answers, None]:
        """Ask those members that are at the end of a token."""
        while queries := {m: asked for m in members if (asked := self._paths[m].queries())}:
            yield from self._ask(queries, hidden=hidden)

    def _next_byte(self, member: int) -> torch.Tensor:
        return torch.from_numpy(self._paths[member].next_bytes())

    def fuse(self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None) -> Fused:
        """See `Request.fuse`; over the next byte."""
        return self._mixer.fuse({m: self._next_byte(m) for m in looks}, rule)

    def write(
        self, looks: Mapping[int, torch.Tensor], rule: Rule | None = None
    ) -> Generator[Ask | Step, Answers, None]:
        """See `Request.write`; the bytes of a step are chosen one by one."""
        mixer, answer = self._mixer, self._mixer.answer
        primary = mixer.shared.config.primary
        is_fresh = self._paths[primary].own is not None  # else its best path is within a token
        if looks.keys() == {primary} and is_fresh and answer.constraint is None:
            rows = mixer.shared.primary_rows
            row = answer.choose(looks[primary], rows)
            yield self.emit(looks[primary], rows, looks, row=row)
            self._paths[primary].take(row)
            return
        members = tuple(sorted(looks))
        followed = {*members, primary}  # whose paths the step needs
        tops = {m: self._top(m) for m in members}
        chances = dict.fromkeys(members, 1.0)
        unit, logprob = b"", 0.0
        first: tuple[tuple[bytes, float], ...] = ()
        while True:
            fused = self.fuse(looks, rule)
            mixer.check(fused.probs, BYTES)
            row = answer.choose(fused.probs, BYTES)
            first = first or _alternatives(fused.probs, answer.top_logprobs)
            if BYTES.is_end(row):
                break
            for m in members:
                chances[m] *= float(fused.views[m][row])
            unit, logprob = unit + BYTES.unit(row), logprob + _log(float(fused.probs[row]))
            answer.append_byte(BYTES.unit(row))
            for m, paths in self._paths.items():
                paths.extend(BYTES.unit(row))
                if m in followed:
                    paths.catch_up()
            if self._paths[primary].ends_token(unit) or not answer.fits():
                break
            yield from self._read(tuple(followed))
        if unit:
            views = {m: self._view(m, tops[m], chances[m]) for m in members}
            others = tuple(other for other in first if other[0] != unit[:1])
            yield answer.end_step(unit, logprob, views, ((unit, logprob), *others))
        if BYTES.is_end(row):
            views = {m: self._view(m, self._top(m), float(fused.views[m][row])) for m in members}
            first = _alternatives(fused.probs, answer.top_logprobs)
            logprob = _log(float(fused.probs[row]))
            yield answer.end_step(b"", logprob, views, first, is_end=True)

    def _top(self, member: int) -> tuple[bytes, float]:
        """What a member holds most probable, up to the end of its token, and how probable."""
        leaves = self._paths[member].leaves()
        return (leaves[0].text, leaves[0].mass) if leaves else (b"", 0.0)

    def _view(self, member: int, top: tuple[bytes, float], prob: float) -> MemberView:
        return MemberView(self._mixer.shared.members[member].name, *top, prob)

    def _wrote(self, unit: bytes) -> None:
        for paths in self._paths.values():
            paths.extend(unit)


def _allowed_bytes(mixer: Mixer) -> Callable[[], torch.Tensor] | None:
    """What tells which bytes a grammar over bytes allows next."""
    constraint = mixer.answer.constraint
    return constraint.allowed if constraint is not None and constraint.units is BYTES else None


def _alternatives(probs: torch.Tensor, most: int) -> tuple[tuple[bytes, float], ...]:
    """The most probable bytes and their logprobs, best first."""
    values, rows = probs.topk(min(most, len(probs)))
    return tuple(
        (BYTES.unit(row), math.log(value))
        for row, value in zip(rows.tolist(), values.tolist(), strict=True)
        if value > 0
    )


def _log(prob: float) -> float:
    return math.log(prob) if prob > 0 else -math.inf


READERS: Final[dict[str, type[TokenReader]]] = {
    "tokens": TokenReader,
    "scored": ScoringReader,
    "bytes": ByteReader,
}
