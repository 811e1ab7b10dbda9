"""`Runtime`: from loaded models to members, union vocabulary, engine and requests."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

from gac_core.chat.content import check_text
from gac_core.chat.messages import Message
from gac_core.chat.prompt import (
    Prompt,
    Rendered,
    check_messages,
    has_leading_space,
    render,
)
from gac_core.chat.thoughts import PromptEnd, Thinking, switches, think_tags
from gac_core.config import EnsembleConfig
from gac_core.decoding.part import ANSWER, TEXT, Part
from gac_core.decoding.proof import check_sampling, check_setup
from gac_core.decoding.request import Method, Request
from gac_core.decoding.run import Sink
from gac_core.decoding.shared_state import SharedState
from gac_core.decoding.turn import TagIds, Turn
from gac_core.engine.engine import Engine
from gac_core.engine.job import Job, OnError
from gac_core.engine.tracing import Trace, Tracing
from gac_core.errors import CannotSpellError, ConfigError, ContextOverflowError, PromptError
from gac_core.grammar.constraint import Constraint, GrammarEngine
from gac_core.members.base import Member, Scorer
from gac_core.members.loading import Loaded
from gac_core.members.local import LocalScorer
from gac_core.method_specs import MethodSpec, SpaceName
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS
from gac_core.sampling_params import MAX_SEED, SamplingParams
from gac_core.tokens.spaces import BYTES
from gac_core.tokens.spelling import check_spelling
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import Vocabulary, are_same_text

# What `auto` means; docs/evaluation.md has the measurements.
_BEST_SPACES: Final[tuple[SpaceName, ...]] = ("scored", "bytes", "tokens")
_BEST_FUSIONS: Final[dict[SpaceName, str]] = {
    "tokens": "mean",
    "scored": "power",
    "bytes": "mean",
}


class Runtime:
    """A loaded ensemble.

    Args:
        config: of the members that take part; see `EnsembleConfig.active`.
        loaded: these members.
        spec: of the method, if it is not the registered one of that name.

    Attributes:
        members: in the order of the configuration.
        union: of their vocabularies.
        method: decodes each request.
        grammars: makes the constraints that hold answers to a grammar.
        engine: drives all requests.
        sampling: what is not given with a request, of `SamplingParams`.
        tracing: begins the spans of requests.

    Raises:
        VocabularyError: a tokenizer can not take part.

    """

    def __init__(
        self, config: EnsembleConfig, loaded: Sequence[Loaded], spec: MethodSpec | None = None
    ) -> None:
        spec = spec or METHODS.get(config.method)
        self._check = spec.check
        self._config = config
        self._loaded = loaded
        self._render_lock = threading.Lock()  # tokenizers are not thread-safe
        self.members = tuple(
            _member(member, weight) for member, weight in zip(loaded, config.weights, strict=True)
        )
        self.sampling = loaded[config.primary].sampling if config.sampling == "model" else {}
        self._tags = [
            think_tags(own.tokenizer, own.think_tags, own.template_options) for own in loaded
        ]
        check_spelling({member.name: member.tokenizer for member in self.members})
        primary = self.members[config.primary]
        vocabularies = [member.tokenizer.vocabulary for member in self.members]
        space = _space(config, spec, vocabularies)
        check_setup(config, spec, space, self.members)
        self.union = UnionVocabulary(
            vocabularies, config.primary, primary.scorer.device, by_bytes=space == "bytes"
        )
        units = {"tokens": self.union, "bytes": BYTES}.get(space)
        self.method: Method = spec.method
        self._shared = SharedState(
            self.members,
            self.union,
            space,
            units or UnionVocabulary([primary.tokenizer.vocabulary], 0, primary.scorer.device),
            config,
            FUSIONS.get(_BEST_FUSIONS[space] if config.fusion == "auto" else config.fusion),
            WEIGHTINGS.get(config.weighting),
            None if spec.resource is None else spec.resource(config.options, primary),
        )
        self.grammars = GrammarEngine(self._shared.units, self.union.spelling)
        self.engine = Engine(self.members, config.max_batch)
        self.tracing = Tracing("+".join(config.names), config.method, space)

    def request(self, prompt: Prompt, sampling: SamplingParams) -> Request:
        """A request that is ready to be decoded.

        Args:
            prompt: a text to continue, or chat messages.
            sampling: how to draw; its seed is set.

        Raises:
            ConfigError: the method can not follow this sampling.
            PromptError: the prompt is malformed, empty, or does not fit a member's context.
            GrammarError: no text of the grammar fits the steps.

        """
        return self.request_after(
            self.prompt_ids(prompt), sampling, is_chat=not isinstance(prompt, str)
        )

    def turn(self, prompt: Prompt, sampling: SamplingParams) -> Request | Turn:
        """As `request`; a turn of several requests if members may think in it.

        Raises:
            ConfigError: the method can not follow this sampling, or nobody can think.

        """
        if isinstance(prompt, str):
            if sampling.thinking == "on":
                raise PromptError("members think in chats only; give messages, or thinking='auto'")
            return self.request(prompt, sampling)
        rendered = self._read(prompt, sampling.thinking)
        if sampling.thinking == "on" and not self.can_think:
            raise ConfigError(
                "no member of this ensemble has think tags; set think_tags of one, or leave "
                "thinking='auto'"
            )
        answer = self.request_after(self._before_answer(rendered), sampling, is_chat=True)
        if not self.can_think:
            return answer
        prompts = [chat.ids for chat in rendered]
        return Turn(self._tag_ids, prompts, self._prompt_ends(rendered), answer, self._part)

    def answer_prompts(self, prompt: Prompt) -> list[list[int]]:
        """The ids after which each member answers, and thinks no more.

        Raises:
            PromptError: it is malformed, or has no token for some member.

        """
        rendered = self._read(prompt, "off")
        if isinstance(prompt, str):
            return [read.ids for read in rendered]
        return self._before_answer(rendered)

    def _before_answer(self, rendered: Sequence[Rendered]) -> list[list[int]]:
        """The ids of a chat and, where members may think, of what stands instead of a thought."""
        if not self.can_think:
            return [chat.ids for chat in rendered]
        ends = self._prompt_ends(rendered)
        return [
            [*chat.ids, *tags.before_answer(end)]
            for chat, end, tags in zip(rendered, ends, self._tag_ids, strict=True)
        ]

    def _prompt_ends(self, rendered: Sequence[Rendered]) -> list[PromptEnd]:
        """What each member's prompt has of a thought at its end."""
        return [
            "none" if tags is None else tags.prompt_end(chat.text)
            for tags, chat in zip(self._tags, rendered, strict=True)
        ]

    @property
    def can_think(self) -> bool:
        """Whether some member has think tags."""
        return any(tags is not None for tags in self._tags)

    @cached_property
    def _tag_ids(self) -> list[TagIds]:
        """Each member's think tags; needed where some member has its own."""
        return [TagIds.of(m, tags) for m, tags in zip(self.members, self._tags, strict=True)]

    def submission(
        self, prompt: Prompt, params: SamplingParams | None, options: Mapping[str, Any]
    ) -> Callable[[Sink, OnError], Job]:
        """A checked turn, ready to be submitted with a sink; arguments as of `generate`."""
        sampling = sampling_of(params, options, self.sampling)
        return self.traced(prompt, sampling, lambda: (self.method, self.turn(prompt, sampling)))

    def traced(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        make: Callable[[], tuple[Method, Request | Turn]],
    ) -> Callable[[Sink, OnError], Job]:
        """What is made, ready to be submitted with a sink.

        All requests of users go through here, so it is here that their spans begin.

        Args:
            prompt: of the request.
            sampling: how it is to be drawn.
            make: makes the request, and what decodes it.

        """
        trace = self.tracing.begin(prompt, sampling)
        with _failing(trace):
            method, work = make()

        def submit(sink: Sink, on_error: OnError) -> Job:
            with _failing(trace):
                return self.engine.submit(method, work, sink, on_error, trace)

        return submit

    def request_after(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, is_chat: bool
    ) -> Request:
        """As `request`, after each member's ids of a prompt."""
        if self._check is not None:
            self._check(self._config, sampling)
        check_sampling(sampling, self.members)
        sampling = _fitted(sampling, self.members, prompts)
        return self._part(prompts, sampling, ANSWER if is_chat else TEXT)

    def _part(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, part: Part
    ) -> Request:
        constraint = self._constraint(sampling, prompts)
        return Request(self._shared, prompts, sampling, part, constraint=constraint)

    def prompt_ids(self, prompt: Prompt) -> list[list[int]]:
        """The prompt's ids for each member.

        Raises:
            PromptError: it is malformed, or has no token for some member.

        """
        return [read.ids for read in self._read(prompt)]

    def _read(self, prompt: Prompt, thinking: Thinking = "auto") -> list[Rendered]:
        """The prompt as each member reads it."""
        if isinstance(prompt, str):
            found = [Rendered(prompt, _read(member, prompt)) for member in self.members]
        else:
            found = self._render(prompt, thinking)
        for member, rendered in zip(self.members, found, strict=True):
            if not rendered.ids:
                raise PromptError(
                    f"the prompt has no token for {member.name}, whose tokenizer adds no beginning "
                    "of text; give it at least one character"
                )
        return found

    def _render(self, messages: Sequence[Message], thinking: Thinking) -> list[Rendered]:
        """A chat in each member's template."""
        for index, message in enumerate(check_messages(messages)):
            for member in self.members:
                _check_spelled(member, message["content"], f"message {index}")
                thought = message.get("reasoning_content", "")
                _check_spelled(member, thought, f"reasoning_content of message {index}")
        with self._render_lock:
            return [
                render(
                    own.tokenizer,
                    messages,
                    options={**switches(own.tokenizer, thinking), **own.template_options},
                )
                for own in self._loaded
            ]

    def _constraint(
        self, sampling: SamplingParams, prompts: Sequence[Sequence[int]]
    ) -> Constraint | None:
        """The constraint that holds the answer to its grammar; None without a grammar."""
        if sampling.grammar is None:
            return None
        contexts = [
            limit - len(ids)
            for member, ids in zip(self.members, prompts, strict=True)
            if (limit := member.scorer.context_size) is not None
        ]
        return self.grammars.constraint(sampling.grammar, sampling.max_new_tokens, contexts)


@contextmanager
def _failing(trace: Trace | None) -> Iterator[None]:
    """End the span, if there is one, with an error of the block."""
    try:
        yield
    except Exception as error:
        if trace is not None:
            trace.end(error=error)
        raise


def _space(
    config: EnsembleConfig, spec: MethodSpec, vocabularies: Sequence[Vocabulary]
) -> SpaceName:
    """The space in which the members meet: tokens if all share one vocabulary."""
    if are_same_text(vocabularies) and "tokens" in spec.spaces:
        return "tokens"
    if config.space != "auto" and config.space in spec.spaces:
        return config.space
    return next(space for space in _BEST_SPACES if space in spec.spaces)


def _read(member: Member, prompt: str) -> list[int]:
    """A raw prompt in a member's ids."""
    check_text(prompt, "the prompt")
    try:
        return member.tokenizer.encode_prompt(prompt)
    except CannotSpellError as error:
        _check_spelled(member, prompt, "the prompt")
        raise PromptError(f"{member.name} can not read the prompt: {error}") from error


def _check_spelled(member: Member, text: str, where: str) -> None:
    """Refuse a text with a character for which a member has no token."""
    char = member.tokenizer.lost_character(text)
    if char is not None:
        raise PromptError(
            f"{where} holds {char!r} (U+{ord(char):04X}), for which {member.name} has no token; "
            "remove it"
        )


def sampling_of(
    params: SamplingParams | None,
    options: Mapping[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> SamplingParams:
    """The sampling of a request, with a seed.

    Args:
        params: how to draw; greedy by default.
        options: single fields, which override those of `params`.
        defaults: of fields that neither gives.

    Raises:
        ConfigError: an option is unknown or out of range.

    """
    sampling = SamplingParams() if params is None else params
    if not isinstance(sampling, SamplingParams):
        raise ConfigError(f"params must be SamplingParams, not {type(params).__name__}")
    if options or defaults:
        given = {name: getattr(sampling, name) for name in sampling.model_fields_set}
        sampling = SamplingParams.of({**defaults, **given, **options})
    if sampling.seed is None:
        seed = secrets.randbelow(MAX_SEED) if sampling.temperature else 0
        sampling = sampling.model_copy(update={"seed": seed})
    return sampling


def _member(loaded: Loaded, weight: float) -> Member:
    model = loaded.model
    scorer = model if isinstance(model, Scorer) else LocalScorer(model, loaded.name)
    vocabulary = Vocabulary.of(
        loaded.tokenizer,
        vocab_size=scorer.vocab_size,
        end_ids=loaded.end_ids,
        text_tokens=loaded.text_tokens,
    )
    return Member(
        loaded.name,
        scorer,
        ByteTokenizer(loaded.tokenizer, vocabulary),
        weight,
        has_leading_space(loaded.tokenizer, vocabulary),
        reads_transcript=not loaded.tokenizer.chat_template,
    )


def _fitted(
    sampling: SamplingParams, members: Sequence[Member], prompts: Sequence[Sequence[int]]
) -> SamplingParams:
    """The sampling with an answer that fits every member's context.

    A default `max_new_tokens` is lowered, one that was asked for is not.

    Raises:
        ContextOverflowError: prompt and answer do not fit a member's context.

    """
    is_asked = "max_new_tokens" in sampling.model_fields_set
    most = sampling.max_new_tokens
    for member, ids in zip(members, prompts, strict=True):
        limit = member.scorer.context_size
        if limit is None:
            continue
        needed = sampling.max_new_tokens if is_asked else 1
        if len(ids) + needed > limit:
            raise ContextOverflowError(
                f"the prompt has {len(ids)} tokens for {member.name} and the answer may have "
                f"{needed}, but its context holds {limit}; shorten the prompt"
                + (" or lower max_new_tokens" if is_asked and len(ids) < limit else "")
            )
        most = min(most, limit - len(ids))
    return sampling if is_asked else sampling.model_copy(update={"max_new_tokens": most})
