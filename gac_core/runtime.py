"""From loaded models to what answers requests: members, union, engine."""

import threading
from collections.abc import Sequence
from typing import Any

from gac_core.chat.prompt import leading_space
from gac_core.config import EnsembleConfig, MemberConfig, SamplingParams
from gac_core.decoding.gate_head import GateHead
from gac_core.decoding.request import Member, Settings
from gac_core.engine.engine import Engine
from gac_core.errors import ConfigError, ContextOverflowError
from gac_core.fusion import rules as fusion
from gac_core.grammar.constraint import Constraint, GrammarEngine
from gac_core.members.loading import Loaded, load_members, member_names
from gac_core.members.local import Scorer
from gac_core.methods import METHODS, Method
from gac_core.registry import find
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary, check_spelling
from gac_core.tokens.vocabulary import Vocabulary


class Assembly:
    """An ensemble once it is loaded.

    Attributes:
        settings: what all requests share.
        method: how they are decoded.
        grammars: holds answers to a grammar.
        engine: who drives them.
        tokenizers: of the members, in order.
        render_lock: held while a chat template is applied; tokenizers are not made for threads.

    """

    def __init__(self, config: EnsembleConfig, loaded: Sequence[Loaded]) -> None:
        used = [i for i, weight in enumerate(config.weights) if weight > 0]
        total = sum(config.weights)
        self.tokenizers = [member.tokenizer for member in loaded]
        members = tuple(
            _member(member, config.weights[index] / total)
            for index, member in zip(used, loaded, strict=True)
        )
        check_spelling([member.tokenizer for member in members])
        primary = used.index(config.primary)
        vocabularies = [member.tokenizer.vocabulary for member in members]
        self.settings = Settings(
            members,
            UnionVocabulary(vocabularies, primary, members[primary].scorer.device),
            config,
            find(fusion.RULES, "fusion", config.fusion),
            primary,
            GateHead.load(config.gate, members[primary].scorer.width) if config.gate else None,
        )
        self.method: Method = find(METHODS, "method", config.method)
        self.grammars = GrammarEngine(self.settings.units)
        self.engine = Engine(members, config.max_batch)
        self.render_lock = threading.Lock()

    def constraint(
        self, sampling: SamplingParams, prompts: Sequence[Sequence[int]]
    ) -> Constraint | None:
        """What holds the answer to these prompts to its grammar.

        Raises:
            GrammarError: there is no room for its shortest text.

        """
        if sampling.grammar is None:
            return None
        rooms = [
            limit - len(ids)
            for member, ids in zip(self.settings.members, prompts, strict=True)
            if (limit := member.scorer.context_size) is not None
        ]
        return self.grammars.constraint(sampling.grammar, sampling.max_new_tokens, rooms)


def _member(loaded: Loaded, weight: float) -> Member:
    scorer = Scorer(loaded.model, loaded.name)
    vocabulary = Vocabulary.of(
        loaded.tokenizer,
        rows=scorer.rows,
        end_ids=loaded.end_ids,
        text_tokens=loaded.text_tokens,
    )
    return Member(
        loaded.name,
        scorer,
        ByteTokenizer(loaded.tokenizer, vocabulary),
        weight,
        leading_space(loaded.tokenizer, vocabulary),
    )


def config_of(members: Sequence[MemberConfig], options: dict[str, Any]) -> EnsembleConfig:
    """The configuration of these members; the options are its fields, and `weights`.

    Raises:
        ConfigError: an option is unknown, out of range, or of the wrong length.

    """
    options = dict(options)
    weights = options.pop("weights", None)
    if weights is not None:
        if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence):
            raise ConfigError(f"weights must be a list of numbers, not {weights!r}")
        if len(weights) != len(members):
            raise ConfigError(
                f"there are {len(members)} models and {len(weights)} weights; give one per model"
            )
        members = [
            MemberConfig.of({**m.model_dump(), "weight": w})
            for m, w in zip(members, weights, strict=True)
        ]
    return EnsembleConfig.of({"members": tuple(members), **options})


def load_used(config: EnsembleConfig, *, progress: bool) -> list[Loaded]:
    """Load the members whose weight is not 0."""
    named = [
        member.model_copy(update={"name": name})
        for member, name, weight in zip(
            config.members, member_names(config.members), config.weights, strict=True
        )
        if weight > 0
    ]
    return load_members(named, progress=progress)


def fitted(
    sampling: SamplingParams, members: Sequence[Member], prompts: Sequence[Sequence[int]]
) -> SamplingParams:
    """Sampling whose answer fits every member: a length that was not asked for gives way.

    Raises:
        ContextOverflowError: there is no room for the answer asked for.

    """
    asked = "max_new_tokens" in sampling.model_fields_set
    room = sampling.max_new_tokens
    for member, ids in zip(members, prompts, strict=True):
        limit = member.scorer.context_size
        if limit is None:
            continue
        needed = sampling.max_new_tokens if asked else 1
        if len(ids) + needed > limit:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens for {member.name} and the answer may have "
                f"{needed}, but its context holds {limit}; shorten the prompt"
                + (" or lower max_new_tokens" if asked and len(ids) < limit else "")
            )
        room = min(room, limit - len(ids))
    return sampling if asked else sampling.model_copy(update={"max_new_tokens": room})
