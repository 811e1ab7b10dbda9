"""Twist decoding: beam searches that take turns, each guided by the texts of the one before.

After https://arxiv.org/abs/2205.09273. The paper re-tokenises the other model's outputs and adds a
distance between prefixes in these tokens. Here texts are compared by bytes, which needs no common
tokens: a token gains `guidance` if its bytes occur, within `_WINDOW` bytes of its own offset, in a
text that the previous member found; an end gains it where such a text ends. There may be more than
two members; they take turns from the lightest weight to the heaviest, the primary last.

Whole texts are searched, so all steps come at the end, and no step can be drawn or held to a
grammar.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from pydantic import Field

from gac_core.errors import ConfigError, MethodError
from gac_core.members.base import Answers, Ask, Query
from gac_core.method_specs import MethodOptions, MethodSpec
from gac_core.outputs import Step
from gac_core.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from gac_core.config import EnsembleConfig
    from gac_core.decoding.request import Decoder, Request
    from gac_core.sampling_params import SamplingParams

_WINDOW: Final = 2  # bytes by which a piece may be displaced in another text
_CHUNK: Final = 256  # positions of the answer; logits of only so many are in memory at a time


class TwistOptions(MethodOptions):
    """How long and how widely members search."""

    rounds: int = Field(1, ge=1, description="turns of every member")
    beams: int = Field(1, ge=1, le=16, description="beams of each search")
    guidance: float = Field(
        0.3, ge=0.0, description="how much a unit gains for being in the others' texts"
    )


@dataclass(frozen=True)
class Beam:
    """A text that is being searched.

    Attributes:
        tokens: the member's own ids, with the end if there is one.
        text: their bytes, without a leading space that is only a spelling.
        score: the sum over its tokens of log p + guidance * closeness, in nats.
        is_ended: whether its last token is an end.

    """

    tokens: tuple[int, ...] = ()
    text: bytes = b""
    score: float = 0.0
    is_ended: bool = False

    @property
    def mean_score(self) -> float:
        """The score per token, by which texts of different lengths compete."""
        return self.score / len(self.tokens)


def twist(request: "Request") -> "Decoder":
    """Each member searches in its turn; emit the primary's best text in its own tokens."""
    if request.answer.forced is not None:
        raise MethodError(
            "method twist searches for a text of its own, so no text can be forced on it"
        )
    primary, members = request.primary, request.members
    others = sorted(request.others, key=lambda m: members[m].weight)
    turns = [*others, primary] * request.options.rounds if others else [primary]
    beams: list[Beam] = []
    for member in turns:
        beams = yield from _search(request, member, beams)
    yield from _emit(request, beams[0].tokens)


def _search(
    request: "Request", member: int, guides: Sequence[Beam]
) -> Generator[Ask | Step, Answers, list[Beam]]:
    """A member's beam search, as transformers do it; the best texts it found, best first."""
    num_beams = request.options.beams
    vocabulary = request.union.vocabularies[member]
    leading_space = request.part.begins_turn and request.members[member].leading_space
    boost = math.exp(request.options.guidance)
    close = _closeness(vocabulary, guides, leading_space=leading_space)
    live, done = [Beam()], list[Beam]()
    for left in reversed(range(_limit(request, member))):
        found = []
        for beam, logits in zip(live, (yield from _wave(request, member, live)), strict=True):
            probs = request.mixer.to_probs(member, logits)
            near = close(len(beam.text), not beam.tokens).to(probs.device)
            probs = probs.index_copy(0, near, probs[near] * boost)
            # Besides all end tokens there must be enough to fill the next wave.
            values, tokens = probs.topk(min(num_beams + len(vocabulary.end_ids), len(probs)))
            for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
                if value == 0.0:
                    break
                unit = vocabulary.token_bytes[token]
                if leading_space and not beam.tokens:
                    unit = unit.removeprefix(b" ")
                found.append(
                    Beam(
                        (*beam.tokens, token),
                        beam.text + unit,
                        beam.score + math.log(value),
                        token in vocabulary.end_ids,
                    )
                )
        found.sort(key=lambda beam: (-beam.score, beam.tokens))
        done += [beam for beam in found[:num_beams] if beam.is_ended or left == 0]
        done = sorted(done, key=lambda beam: -beam.mean_score)[:num_beams]
        live = [beam for beam in found if not beam.is_ended][:num_beams]
        if not live or (len(done) == num_beams and live[0].mean_score <= done[-1].mean_score):
            break
    return done


def _limit(request: "Request", member: int) -> int:
    """The number of tokens that a member may write, the end included."""
    budget, steps = request.histories[member].budget, request.steps_left
    return steps if budget is None else min(steps, budget + 1)


def _wave(
    request: "Request", member: int, live: Sequence[Beam]
) -> Generator[Ask, Answers, list[torch.Tensor]]:
    """The logits after each live text, (vocab_size,) each."""
    prompt = request.histories[member].ids
    queries = [Query([*prompt, *beam.tokens], branch=n) for n, beam in enumerate(live)]
    return [scored.logits[-1] for scored in (yield Ask({member: queries}))[member]]


def _closeness(
    vocabulary: Vocabulary, guides: Sequence[Beam], *, leading_space: bool
) -> Callable[[int, bool], torch.Tensor]:
    """A function that gives the tokens in the guides' texts around an offset, (n,) of int64."""
    by_bytes = defaultdict[bytes, list[int]](list)
    for token in vocabulary.text_ids if guides else ():
        by_bytes[vocabulary.token_bytes[token]].append(token)
    longest = max(map(len, by_bytes), default=0)

    @cache
    def close(offset: int, is_first: bool) -> torch.Tensor:
        texts = [guide.text for guide in guides]
        if is_first and leading_space:  # " x" is how this member spells "x" here
            texts += [b" " + text for text in texts]
        starts = range(max(0, offset - _WINDOW), offset + _WINDOW + 1)
        pieces = {text[s : s + n] for text in texts for s in starts for n in range(longest + 1)}
        tokens = [token for piece in pieces for token in by_bytes.get(piece, ())]
        if any(guide.is_ended and len(guide.text) == offset for guide in guides):
            tokens += vocabulary.end_ids
        return torch.tensor(tokens, dtype=torch.int64)

    return close


def _emit(request: "Request", tokens: Sequence[int]) -> Generator[Ask | Step, Answers, None]:
    """The primary's tokens as steps, with distributions that are asked for once more, in chunks."""
    primary, prompt = request.primary, request.histories[request.primary].ids
    for start in range(0, len(tokens), _CHUNK):
        part = tokens[start : start + _CHUNK]
        query = Query([*prompt, *tokens[: start + len(part) - 1]], len(part))
        (scored,) = (yield Ask({primary: (query,)}))[primary]
        for token, logits in zip(part, scored.logits, strict=True):
            step = request.emit_alone(request.mixer.to_probs(primary, logits), token)
            yield replace(step, decided_by="ensemble") if request.others else step


def _check(config: "EnsembleConfig", sampling: "SamplingParams") -> None:  # noqa: ARG001
    """Refuse sampling that makes no sense for whole texts.

    Raises:
        ConfigError: a temperature, a repetition penalty or a grammar is set.

    """
    for option, is_set in (
        ("temperature", sampling.temperature > 0),
        ("repetition_penalty", sampling.repetition_penalty != 1.0),
        ("grammar", sampling.grammar is not None),
    ):
        if is_set:
            raise ConfigError(
                f"method twist takes no {option}: it searches for the best whole text instead of "
                "choosing step by step; leave it out, or use another method"
            )


SPEC: Final = MethodSpec(
    "twist",
    twist,
    summary="members search whole answers in turn, each drawn to the texts of the one before; all "
    "steps come at the end",
    paper="https://arxiv.org/abs/2205.09273",
    options=TwistOptions,
    ignores=("fusion", "weighting", "space", "history", "draft"),
    refuses="sampling, grammars, `repetition_penalty`",
    check=_check,
)
