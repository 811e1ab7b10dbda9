"""Messages to each member's own prompt ids.

A prompt is rendered by every member's own chat template. The content of messages is always plain
text: no control token that a user types gets through (`sanitize_control_tokens` is given every
added token that is no plain text, since some are neither special nor named by the template).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from gac_core.chat.messages import Message, plain_message
from gac_core.chat.tools import text_of_calls
from gac_core.errors import PromptError
from gac_core.tokens.vocabulary import Vocabulary, is_plain_text

Prompt = str | Sequence[Message]  # a text to go on with, or a chat
_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})

_TOO_LONG: Final = "sequence-length-is-longer-than-the-specified-maximum"

# For members without a template of their own (base models).
# Base models answer more questions asked so than as "User:" and "Assistant:".
TRANSCRIPT_TEMPLATE: Final = (
    "{% set labels = {'user': 'Question', 'assistant': 'Answer'} %}"
    "{% for m in messages %}{{ labels.get(m.role, m.role | capitalize) }}: {{ m.content }}\n"
    "{% if m.role != 'user' %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)
# With which the next turn of this template begins. Not "Answer:", which stands in many answers.
TURN_MARKS: Final = ("Question:", "System:", "Tool:")


@dataclass(frozen=True)
class Rendered:
    """A chat in a member's template.

    Attributes:
        text: as the template writes it.
        ids: the member's ids of it.

    """

    text: str
    ids: list[int]


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as plain dicts with a known role and one text each, in order.

    They may be written as any provider writes them, see `plain_message`; the parts of a content
    are joined as they are. Calls of tools become text in the form of `gac_core.chat.tools`. The
    `tool_call_id` and `name` of a tool's result are not shown, but results are put in the order of
    the calls.

    Raises:
        PromptError: no messages, an unknown role or field, or content that can not be read.

    """
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise PromptError(f"messages must be a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise PromptError("the list of messages is empty; give at least one user message")
    plain = [p for i, m in enumerate(messages) for p in plain_message(m, f"message {i}")]
    return [_with_calls(message) for message in _in_order_of_calls(plain)]


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    """Role and content of a plain message, its calls written out."""
    content = message["content"]
    if calls := message.get("tool_calls"):
        written = text_of_calls(calls)
        content = f"{content}\n{written}" if content else written
    plain = {"role": message["role"], "content": content}
    if thought := message.get("reasoning_content"):  # under the names by which templates ask for it
        plain.update(reasoning_content=thought, thinking=thought)
    return plain


def _in_order_of_calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results that stand together in the order of the calls before them, by their ids."""
    order: dict[Any, int] = {}
    keys: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            keys.append(
                (keys[-1][0] if keys else 0, order.get(message.get("tool_call_id"), len(order)))
            )
            continue
        order = {call["id"]: place for place, call in enumerate(message.get("tool_calls", ()))}
        keys.append((index, -1))
    return [messages[i] for i in sorted(range(len(messages)), key=keys.__getitem__)]


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> list[int]:
    """The ids of the messages in this tokenizer's chat template; see `render`."""
    return render(
        tokenizer, messages, add_generation_prompt=add_generation_prompt, options=options
    ).ids


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> Rendered:
    """The messages in this tokenizer's chat template, with one BOS at most.

    A template that refuses or drops the system role gets the system text as the beginning of the
    first user turn; one that refuses or drops tools' results gets them as a user's turn; one that
    insists on alternating roles gets neighbours of one role joined; one that refuses thoughts gets
    the answers alone.

    Args:
        tokenizer: whose template it is.
        messages: the chat.
        add_generation_prompt: whether the prompt ends where an answer begins.
        options: what the template is given besides, such as `enable_thinking`.

    Raises:
        PromptError: the template refuses the messages all the same, or loses a part of them.

    """
    plain = check_messages(messages)
    refusal: Exception | None = None
    for form in _forms(plain):
        try:
            rendered = _render(tokenizer, form, options, generation=add_generation_prompt)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            refusal = error
            continue
        if _is_complete(rendered.text, form):
            return rendered
    raise PromptError(
        f"the chat template of {tokenizer.name_or_path or 'this tokenizer'!r} "
        + (f"refuses these messages: {refusal}" if refusal else "drops a part of the messages")
    ) from refusal


def _forms(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages as they are, then with less and less asked of the template."""
    answers_alone = without_thoughts(messages)
    has_thoughts = messages != answers_alone
    yield messages
    yield system_in_user_turn(messages)
    if any(message["role"] == "tool" for message in messages):
        yield results_in_user_turns(messages)
        messages = results_in_user_turns(messages)
        yield system_in_user_turn(messages)
    yield joined_neighbours(system_in_user_turn(messages))
    if has_thoughts:
        yield from _forms(answers_alone)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    options: Mapping[str, Any],
    *,
    generation: bool,
) -> Rendered:
    text = template_text(tokenizer, messages, generation=generation, options=options)
    # Prompts that are too long are refused later; transformers need not warn of them.
    tokenizer.deprecation_warnings[_TOO_LONG] = True
    own_controls = tokenizer.chat_control_tokens
    tokenizer.chat_control_tokens = [
        t.content for t in tokenizer.added_tokens_decoder.values() if not is_plain_text(t)
    ]
    try:
        ids: Any = tokenizer.apply_chat_template(
            messages,
            chat_template=_own_or_transcript(tokenizer),
            add_generation_prompt=generation,
            return_dict=False,
            sanitize_control_tokens=True,
            **options,
        )
    finally:
        tokenizer.chat_control_tokens = own_controls
    bos = tokenizer.bos_token_id
    if not tokenizer.chat_template and _adds_bos(tokenizer) and ids[:1] != [bos]:
        ids = [bos, *ids]
    return Rendered(text, list(ids))


def template_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    *,
    generation: bool,
    options: Mapping[str, Any] = _NO_OPTIONS,
) -> str:
    """Checked messages as a template writes them; raises what the template raises."""
    return str(
        tokenizer.apply_chat_template(
            messages,
            chat_template=_own_or_transcript(tokenizer),
            add_generation_prompt=generation,
            tokenize=False,
            **options,
        )
    )


def _own_or_transcript(tokenizer: PreTrainedTokenizerBase) -> str | None:
    return None if tokenizer.chat_template else TRANSCRIPT_TEMPLATE


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])


def _is_complete(text: str, messages: list[dict[str, Any]]) -> bool:
    """Whether all content of system, user and tool is in the rendered text, outer blanks apart."""
    contents = (m["content"].strip() for m in messages if m["role"] != "assistant")
    return all(content in text for content in contents)


def without_thoughts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages of role and content only."""
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def system_in_user_turn(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """System texts moved to the beginning of the first user turn."""
    system = [m["content"] for m in messages if m["role"] == "system"]
    others = [m for m in messages if m["role"] != "system"]
    if not system:
        return messages
    first = next((i for i, m in enumerate(others) if m["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": "\n\n".join(system)}, *others]
    user = {**others[first], "content": "\n\n".join([*system, others[first]["content"]])}
    return [*others[:first], user, *others[first + 1 :]]


def results_in_user_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools' results as turns of the user, between tags as most open models know them."""
    return [
        {"role": "user", "content": f"<tool_response>\n{m['content']}\n</tool_response>"}
        if m["role"] == "tool"
        else m
        for m in messages
    ]


def joined_neighbours(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring messages of one role as one message, tool results apart."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"] != "tool":
            text = joined[-1]["content"] + "\n\n" + message["content"]
            joined[-1] = {**joined[-1], "content": text}
        else:
            joined.append(message)
    return joined


def has_leading_space(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> bool:
    """Whether this tokenizer's template writes an answer "Hello" as " Hello".

    Many SentencePiece models open an answer with "▁Hello" where byte-level ones open with "Hello".
    """
    asked = [{"role": "user", "content": "a"}]
    answered = [*asked, {"role": "assistant", "content": "Hello"}]
    try:
        prompt = render_prompt(tokenizer, asked)
        whole = render_prompt(tokenizer, answered, add_generation_prompt=False)
    except PromptError:
        return False  # a chat that needs this template will raise the error
    if whole[: len(prompt)] == prompt:
        answer = b"".join(vocabulary.token_bytes[i] for i in whole[len(prompt) :])
        return answer.startswith(b" ")
    # The prompt's last token runs into the answer: look at the text.
    before, _, _ = template_text(tokenizer, answered, generation=False).rpartition("Hello")
    return before.endswith(" ")
