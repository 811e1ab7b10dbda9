"""Conversations to batches of token ids and targets."""

import random
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from gac_core.chat.prompt import system_in_user_turn
from gac_core.pocket.tasks.exchange import Message
from gac_core.pocket.training.conversations import Conversation, conversation
from gac_core.pocket.training.recipes import PHASES, Recipe

IGNORED = -100  # the target where no loss is taken
_MARK = "\ue000"  # in no text


@dataclass(frozen=True)
class Example:
    """The token ids of a conversation, and at each place the token that is learned or IGNORED."""

    ids: list[int]
    targets: list[int]


class Encoder:
    """Conversations to token ids and targets, a few answer tokens split as others write them.

    Args:
        tokenizer: of the member.
        split_share: the share of answer tokens that are split into two, where they can be.

    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split_share: float = 0.06) -> None:
        self.tokenizer = tokenizer
        self.split_share = split_share
        self.end_id = int(tokenizer.eos_token_id)
        self.splits = _two_piece_splits(tokenizer)
        tokenizer.model_max_length = 10**9  # what is too long is cut here; no need to warn

    def __call__(self, chat: Conversation, rng: random.Random, limit: int) -> Example | None:
        """What fits into `limit` + 1 tokens, up to the end of an answer; None if none does."""
        text, answers = self._rendered(chat)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = iter(answers)
        ids: list[int] = []
        targets: list[int] = []
        complete = 0
        first, last = next(spans)
        for token, (start, end) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            learned = first <= start and end <= last
            if start < first < end or start < last < end:
                raise ValueError(f"a token of {text!r} crosses the border of an answer")
            pieces = self.splits.get(token) if learned else None
            if pieces and rng.random() < self.split_share:
                ids.extend(chosen := rng.choice(pieces))
                targets.extend((IGNORED, chosen[1]))
            else:
                ids.append(token)
                targets.append(token if learned else IGNORED)
            if len(ids) > limit + 1:
                break
            if learned and end == last:
                complete = len(ids)
                first, last = next(spans, (len(text) + 1, len(text) + 1))
        return Example(ids[:complete], targets[:complete]) if complete else None

    def _rendered(self, chat: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where each answer begins and the end token after it ends.

        A context may contain the text of an answer, so the places are found with marks instead.
        """
        marked = [{**m, "content": _MARK} if m["role"] == "assistant" else m for m in chat.messages]
        try:
            first, *others = self._template(marked).split(_MARK)
        except TemplateError:
            first, *others = self._template(system_in_user_turn(marked)).split(_MARK)
        text, spans = first, []
        for answer, after in zip(chat.answers, others, strict=True):
            start = len(text)
            spans.append((start, start + len(answer) + len(str(self.tokenizer.eos_token))))
            text += answer + after
        return text, spans

    def _template(self, messages: list[Message]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False))


def _two_piece_splits(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[tuple[int, int]]]:
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    return {
        token_id: pairs
        for piece, token_id in vocabulary.items()
        if piece not in special
        and (
            pairs := [
                (vocabulary[piece[:cut]], vocabulary[piece[cut:]])
                for cut in range(1, len(piece))
                if piece[:cut] in vocabulary and piece[cut:] in vocabulary
            ]
        )
    }


def batch(recipe: Recipe, encoder: Encoder, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """About `batch_slots` slots of conversations of one length; the same ones for the same step.

    Returns:
        Token ids and targets, (rows, length) each.

    """
    rng = random.Random(f"train {recipe.seed} {step}")
    phase = next(phase for phase in reversed(PHASES) if phase.start <= step)
    shares = [share for share, _ in recipe.buckets.values()]
    length = rng.choices(list(recipe.buckets), shares)[0]
    rows: list[Example] = []
    while len(rows) < recipe.batch_slots // length:
        example = encoder(conversation(recipe, length, rng, phase), rng, length)
        if example is not None:
            rows.append(example)
    return _padded(rows, length, encoder.end_id)


def _padded(rows: list[Example], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORED)
    for row, example in enumerate(rows):
        count = len(example.ids) - 1
        ids[row, :count] = torch.tensor(example.ids[:-1])
        targets[row, :count] = torch.tensor(example.targets[1:])
    return ids, targets
