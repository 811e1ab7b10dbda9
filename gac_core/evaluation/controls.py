"""Controls: what the same members do without fusing, at a similar cost.

*Self-consistency* samples one member as often as there are members, *routing* asks the member that
is best at the task, *rerank* lets all members choose among their answers.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Final

from gac_core.chat.prompt import Prompt
from gac_core.ensemble import Ensemble
from gac_core.evaluation.questions import Item
from gac_core.fusion.weighting import Likelihood
from gac_core.members.base import Member, Query
from gac_core.outputs import Output

Answers = Callable[[str, Sequence[Item]], Iterator[Output]]  # to the items of a task, in order

_TEMPERATURE: Final = 0.7
_SCORED_TOGETHER: Final = 8  # answers; their logits over large vocabularies must fit in memory


def greedy(ensemble: Ensemble) -> Answers:
    """What an ensemble, or a member alone, answers."""

    def answers(_: str, items: Sequence[Item]) -> Iterator[Output]:
        streams = [
            ensemble.stream(item.prompt, max_new_tokens=item.max_new_tokens) for item in items
        ]
        return (Output.of(list(stream)) for stream in streams)

    return answers


def self_consistency(member: Ensemble, samples: int) -> Answers:
    """The most frequent of several sampled answers, the first of them at a tie.

    See https://arxiv.org/abs/2203.11171. The seed of a sample follows from the number of its
    question in the task and its own.
    """

    def answers(_: str, items: Sequence[Item]) -> Iterator[Output]:
        streams = [
            [
                member.stream(
                    item.prompt,
                    max_new_tokens=item.max_new_tokens,
                    temperature=_TEMPERATURE,
                    seed=number * samples + sample,
                )
                for sample in range(samples)
            ]
            for number, item in enumerate(items)
        ]
        for item, own in zip(items, streams, strict=True):
            outputs = [Output.of(list(stream)) for stream in own]
            yield outputs[majority([item.vote_key(output.text) for output in outputs])]

    return answers


def majority(votes: Sequence[Hashable]) -> int:
    """The place of the most frequent vote; of the first one at a tie."""
    counts = Counter(votes)
    return max(range(len(votes)), key=lambda place: counts[votes[place]])


def routing(members: Mapping[str, Ensemble]) -> Answers:
    """Each task is answered by one member, given by task."""
    return lambda task, items: greedy(members[task])(task, items)


def rerank(members: Sequence[Ensemble], judges: Ensemble) -> Answers:
    """Of all members' answers the one that they together find most likely, the first at a tie.

    Args:
        members: each alone.
        judges: all of them.

    """

    def answers(task: str, items: Sequence[Item]) -> Iterator[Output]:
        by_member = [list(greedy(member)(task, items)) for member in members]
        candidates = [_distinct(outputs) for outputs in zip(*by_member, strict=True)]
        texts = [[output.text for output in outputs] for outputs in candidates]
        scores = joint_likelihoods(judges, [item.prompt for item in items], texts)
        for outputs, own in zip(candidates, scores, strict=True):
            yield outputs[max(range(len(own)), key=own.__getitem__)]

    return answers


def _distinct(outputs: Sequence[Output]) -> list[Output]:
    """The first output of each text."""
    by_text: dict[str, Output] = {}
    for output in outputs:
        by_text.setdefault(output.text, output)
    return list(by_text.values())


def joint_likelihoods(
    ensemble: Ensemble, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]]
) -> list[list[float]]:
    """The members' weighted mean of log P(text, END | prompt) per byte, the end counted as one.

    Each member scores its own encoding of a text. Per byte, since tokens differ from member to
    member and sums would favour short answers.

    Args:
        ensemble: the members; nothing else may be asked of it meanwhile.
        prompts: chats, or raw texts that are gone on with.
        texts: the answers to each that are scored.

    """
    totals = [[0.0] * len(own) for own in texts]
    ids = [ensemble.prompt_ids(prompt) for prompt in prompts]
    for m, member in enumerate(ensemble.members):
        for first in range(0, len(prompts), _SCORED_TOGETHER):
            chats = range(first, min(first + _SCORED_TOGETHER, len(prompts)))
            for place in range(max(len(texts[chat]) for chat in chats)):
                asked = [chat for chat in chats if place < len(texts[chat])]
                scored = _log_likelihoods(
                    ensemble,
                    m,
                    [ids[c][m] for c in asked],
                    [_own_ids(member, texts[c][place], prompts[c]) for c in asked],
                )
                for chat, value in zip(asked, scored, strict=True):
                    size = len(texts[chat][place].encode()) + 1
                    totals[chat][place] += member.weight * value / size
    return totals


def _log_likelihoods(
    ensemble: Ensemble,
    m: int,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> list[float]:
    """One member's log P(answer, END | prompt), in natural logarithms."""
    member = ensemble.members[m]
    known = [Likelihood(prompt) for prompt in prompts]
    written = [[*p, *answer] for p, answer in zip(prompts, answers, strict=True)]
    queries = [Query(ids, seen.last(ids)) for seen, ids in zip(known, written, strict=True)]
    ends = sorted(member.tokenizer.vocabulary.end_ids)
    values = []
    # Without keys, so nothing is kept: the cache belongs to the engine's thread.
    for seen, ids, scored in zip(known, written, member.scorer.score(queries), strict=True):
        logits = ensemble.union.mask(m, scored.logits)
        seen.see(ids, logits)
        end = logits[-1].log_softmax(-1)[ends].logsumexp(-1)
        values.append(seen.total + float(end))
    return values


def _own_ids(member: Member, text: str, prompt: Prompt) -> list[int]:
    """An answer as the member would write it after its prompt."""
    is_spelling = member.leading_space and not isinstance(prompt, str)
    lead = " " if is_spelling and not text.startswith(" ") else ""
    return member.tokenizer.encode((lead + text).encode())
