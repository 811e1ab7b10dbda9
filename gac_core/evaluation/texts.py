"""Bits per byte: how well a member, or a method, predicts a text.

A text is cut into pieces. Each is predicted after the bytes before it, as many as fit the window;
so all systems are given the same bytes and are asked about the same bytes, whatever their tokens.
A system's bits over a piece are the sum of -log2 P(unit | what stands before) over the units that
it writes it with:

- A member alone writes its own tokens, cut by its own tokenizer; P is the softmax over its text
  tokens and END.
- A method is run as always, but each choice is made to go on with the text (`Answer.force`): the
  primary's next own token, or the next byte for methods over bytes. P is the probability that the
  method gave this unit where it was decided, by the primary alone or by all members.

Of a text that could be cut otherwise this is one way to write it, so the figure is an upper bound
of the text's own information, as cross-entropies of tokens are; over bytes there is but one way.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from gac_core.engine.streams import Completion, Submit
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError, MethodError
from gac_core.members.base import Ask, Query
from gac_core.method_specs import MethodSpec
from gac_core.outputs import Step
from gac_core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from gac_core.decoding.request import Decoder, Request

LARGEST_WINDOW: Final = 2_048  # bytes; a token has one or more, so no window has more tokens
_SPARE: Final = 16  # tokens of a context: the beginning of text, the end
_FIRST_CONTEXT: Final = 64  # bytes at the beginning of a text, which are read only
_CHUNK: Final = 64  # positions of a member alone; logits of only so many are in memory at a time


@dataclass(frozen=True)
class Piece:
    """A part of a text that is predicted after what stands before it.

    Attributes:
        context: what is read.
        text: what is predicted.

    """

    context: str
    text: str


def window_for(context_size: int | None) -> int:
    """The bytes of a piece and its context together.

    Args:
        context_size: the smallest of all members, in tokens; None if there is no limit.

    Raises:
        ConfigError: the context is too small for any.

    """
    window = LARGEST_WINDOW if context_size is None else min(LARGEST_WINDOW, context_size - _SPARE)
    if window < 4 * _SPARE:
        raise ConfigError(
            f"a context of {context_size} tokens is too small for pieces of a text; leave the "
            "member that has it out"
        )
    return window


def pieces_of(data: str, window: int) -> list[Piece]:
    """A text in pieces of a quarter of the window or less, each after the rest of the window.

    They begin where blanks begin, if there are any, and between two characters else. The beginning
    of the text is only read.

    Args:
        data: the text.
        window: bytes of a piece and its context.

    """
    encoded = data.encode()
    stride = window // 4
    starts = [_cut(encoded, min(_FIRST_CONTEXT, stride) // 2, min(_FIRST_CONTEXT, stride))]
    while len(encoded) - starts[-1] > stride:
        starts.append(_cut(encoded, starts[-1] + stride // 2, starts[-1] + stride))
    pieces = []
    for start, end in zip(starts, [*starts[1:], len(encoded)], strict=True):
        earliest = max(0, start - (window - stride))
        first = 0 if earliest == 0 else _cut(encoded, earliest, earliest + stride, first=True)
        pieces.append(Piece(encoded[first:start].decode(), encoded[start:end].decode()))
    return pieces


def _cut(data: bytes, low: int, high: int, *, first: bool = False) -> int:
    """The last, or first, place from `low` to `high` where blanks begin; else a character does."""
    places = range(low, high + 1) if first else range(high, low - 1, -1)
    blanks = (at for at in places if data[at - 1 : at].strip() and not data[at : at + 1].strip())
    characters = (at for at in places if data[at] & 0xC0 != 0x80)
    return next(blanks, None) or next(characters)


# ------------------------------------------------ predicting


def read_on(request: "Request") -> "Decoder":
    """A member alone: the logits over a forced text at once, in chunks."""
    forced = request.answer.forced
    assert forced is not None, "a text is forced"
    primary, prompt = request.primary, request.histories[request.primary].ids
    for start in range(0, len(forced.tokens) + 1, _CHUNK):
        ids = [*prompt, *forced.tokens[: start + _CHUNK - 1]]
        count = len(ids) - (len(prompt) + start - 1)
        (scored,) = (yield Ask({primary: (Query(ids, count),)}))[primary]
        for logits in scored.logits:
            yield request.emit_alone(request.mixer.to_probs(primary, logits))


ALONE: Final = MethodSpec("every_step", read_on)


def predict(ensemble: Ensemble, pieces: Sequence[Piece]) -> Iterator[list[Step]]:
    """The steps with which an ensemble writes pieces that it is made to write, without the ends.

    Raises:
        MethodError: no text can be forced on its method.
        CannotSpellError: a piece has bytes that the primary has no tokens for.

    """
    answers: list[Completion] = []
    try:
        answers.extend(Completion(_submission(ensemble, piece)) for piece in pieces)
        for piece, answer in zip(pieces, answers, strict=True):
            steps = [step for step in answer.steps() if not step.is_end]
            if b"".join(step.unit for step in steps) != piece.text.encode():
                raise MethodError("the method wrote another text than the one forced on it")
            yield steps
    finally:
        for answer in answers:
            answer.close()


def _submission(ensemble: Ensemble, piece: Piece) -> Submit:
    sampling = SamplingParams(max_new_tokens=len(piece.text.encode()) + 1, seed=0)
    runtime = ensemble.runtime
    request = runtime.request(piece.context, sampling)
    request.answer.force(piece.text)
    return partial(runtime.engine.submit, runtime.method, request)


def bits(steps: Sequence[Step]) -> float:
    """The information of some steps; infinite if one of them was given no probability."""
    return -math.fsum(step.logprob for step in steps) / math.log(2)
