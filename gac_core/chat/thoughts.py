"""Think tags: between which texts a model thinks before it answers, as its chat template has them.

Qwen3 writes `<think>`, a thought, `</think>` and its answer; the template of DeepSeek-R1 opens the
thought itself; gpt-oss thinks in a channel of its own; most models do not think. What stands before
a thought, between it and the answer, and before an answer without one is read off the template,
which is given a message with a thought. Where it drops thoughts, known tags are looked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from gac_core.chat.prompt import template_text
from gac_core.errors import ConfigError
from gac_core.tokens.history import common_prefix

Thinking = Literal["auto", "on", "off"]
# What a rendered prompt has of a thought at its end: nothing, its beginning, or an empty one.
PromptEnd = Literal["none", "open", "closed"]

# What models write around thoughts whose templates do not show it.
_KNOWN: Final = (
    ("<think>\n", "\n</think>\n\n"),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|channel>thought\n", "<channel|>"),  # Gemma 4
)
# With which templates are told whether to think, if they name them.
_SWITCHES: Final = ("enable_thinking", "thinking")
_REFUSALS: Final = (TemplateError, TypeError, ValueError, KeyError)  # with which templates refuse
_THOUGHT, _ANSWER = "Hmm.", "Yes."  # without blanks at their ends, which templates may strip


def _prompt_end(prompt: str, open_tag: str, close_tag: str) -> PromptEnd:
    end = prompt.rstrip()
    if end.endswith(close_tag):
        return "closed"
    return "open" if end.endswith(open_tag) else "none"


@dataclass(frozen=True)
class ThinkTags:
    """Between what a member thinks.

    Attributes:
        opens: what stands before a thought, in the prompt or after it; nothing if prompts open it
            with a tag that nobody knows.
        closes: what stands between a thought and the answer.
        skips: what stands before an answer without a thought, after a prompt that has none of one.
        open_tag: with which a prompt ends that opens a thought, without blanks.
        close_tag: with which a thought ends, without blanks.

    """

    opens: str
    closes: str
    skips: str
    open_tag: str
    close_tag: str

    @classmethod
    def after(cls, prompt: str, opens: str, closes: str) -> "ThinkTags":
        """Tags with their line breaks, without which a prompt may have them that ends with one."""
        tags = opens.strip(), closes.strip()
        if _prompt_end(prompt, *tags) != "none" and prompt.rstrip() == prompt:
            opens, closes = tags
        return cls(opens, closes, "", *tags)

    def prompt_end(self, prompt: str) -> PromptEnd:
        """What a prompt has of a thought at its end."""
        return _prompt_end(prompt, self.open_tag, self.close_tag)


# Between these a member without tags of its own reads thoughts.
AS_TEXT: Final = ThinkTags.after("", *_KNOWN[0])


def think_tags(
    tokenizer: PreTrainedTokenizerBase,
    own: tuple[str, str] | None,
    options: Mapping[str, Any],
) -> ThinkTags | None:
    """Between what a model thinks; None if it does not.

    Args:
        tokenizer: of the model.
        own: the tags, where the template does not show them.
        options: of the chat template.

    Raises:
        ConfigError: tags are given for a model without a chat template.

    """
    if not tokenizer.chat_template:
        if own is not None:
            raise ConfigError(
                f"{tokenizer.name_or_path!r} has no chat template, so think_tags mean nothing"
            )
        return None
    try:
        # Some templates think only if they are told to.
        options = {**switches(tokenizer, "on"), **options}
        prompt = _chat(tokenizer, None, options)
    except _REFUSALS:
        return None  # a chat that needs this template will raise the error
    found = None if own else _read_off(tokenizer, prompt, options)
    if found is not None:
        return found
    template = str(tokenizer.chat_template)
    if own is not None:
        return ThinkTags.after(prompt, f"{own[0]}\n", f"\n{own[1]}\n\n")
    known = next((tags for tags in _KNOWN if tags[1].strip() in template), None)
    return None if known is None else ThinkTags.after(prompt, *known)


def _read_off(
    tokenizer: PreTrainedTokenizerBase, prompt: str, options: Mapping[str, Any]
) -> ThinkTags | None:
    """The tags that a template writes around the thought of a message, if it writes it."""
    thought = {"reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    try:
        with_thought = _chat(tokenizer, thought, options)
        plain = _chat(tokenizer, {}, options)
        other = _chat(tokenizer, None, options, "Why?")
    except _REFUSALS:
        return None
    found = re.fullmatch(
        rf"{re.escape(prompt)}(.*?){re.escape(_THOUGHT)}(.*?){re.escape(_ANSWER)}.*",
        with_thought,
        re.DOTALL,
    )
    if found is None or not found[2].strip():
        return None
    opens, closes = found[1], found[2]
    if opens.strip():
        before, _, _ = plain.removeprefix(prompt).partition(_ANSWER)
        skips = before if plain.startswith(prompt) else ""
        return ThinkTags(opens, closes, skips, opens.strip(), closes.strip())
    # A prompt that opens a thought ends so, whatever is asked.
    end = prompt[len(prompt) - common_prefix(prompt[::-1], other[::-1]) :]
    known = (tags[0].strip() for tags in _KNOWN)
    open_tag = next((tag for tag in known if end.rstrip().endswith(tag)), None)
    # Of a tag that nobody knows, it can not be seen where it begins.
    opens = "" if open_tag is None else end[end.rindex(open_tag) :]
    return ThinkTags(opens, closes, "", open_tag or end.strip(), closes.strip())


def _chat(
    tokenizer: PreTrainedTokenizerBase,
    thought: Mapping[str, str] | None,
    options: Mapping[str, Any],
    question: str = "Is it so",
) -> str:
    """A question alone, or with its answer, in the model's template."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if thought is not None:
        messages.append({"role": "assistant", "content": _ANSWER, **thought})
    return template_text(tokenizer, messages, generation=thought is None, options=options)


def switches(tokenizer: PreTrainedTokenizerBase, thinking: Thinking) -> dict[str, bool]:
    """The options that tell a template whether its model is to think; none for "auto"."""
    template = str(tokenizer.chat_template or "")
    named = [name for name in _SWITCHES if re.search(rf"(?<!\.)\b{name}\b", template)]
    return {} if thinking == "auto" else dict.fromkeys(named, thinking == "on")
