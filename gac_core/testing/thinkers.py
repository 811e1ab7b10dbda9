"""Members that think before they answer, with templates as those of the models that do."""

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Final

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from gac_core.members.base import Query, Scored, ScorerStats
from gac_core.testing.models import tokenizer_of
from gac_core.testing.writers import Uncached
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import Vocabulary

# As Qwen3's: thinks unless it is told not to; thoughts are shown again.
_HYBRID: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and (m.reasoning_content or loop.last) %}"
    "<think>\n{{ (m.reasoning_content or '').strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# As DeepSeek-R1's: the prompt opens a thought, and thoughts are dropped from the history.
_ALWAYS: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)
# As gpt-oss's: thoughts are a channel, and so are answers.
_CHANNELS: Final = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
_TEMPLATES: Final = {"hybrid": _HYBRID, "always": _ALWAYS, "channels": _CHANNELS}
_MARKUP: Final = {
    "hybrid": ("<think>", "</think>"),
    "always": ("<think>", "</think>"),
    "channels": ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
}
THINKERS: Final = tuple(_TEMPLATES)
_LATER_BYTES: Final = bytes(range(0x80, 0xC0))  # of characters that have several


@cache
def thinking_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer with the chat template and tags of a kind of model that thinks.

    Args:
        kind: one of `THINKERS`.

    """
    backend = Tokenizer.from_str(tokenizer_of("chatml").backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in _MARKUP[kind]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|return|>" if kind == "channels" else "<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATES[kind]
    return tokenizer


class Speaker(Uncached):
    """A `Scorer` that would say one of some texts, whatever it is asked.

    It knows where its turn begins by the last of `begins` in what it reads; after that it goes on
    with the first of its texts that begins as what is written does, and ends with END.

    Args:
        tokenizer: in whose ids it reads and writes.
        texts: what it would say, with markup.
        begins: with which its turns begin, as ids or text.
        sureness: the probability of what it would say next; the rest is spread over all tokens.

    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *texts: str,
        begins: Sequence[str] = ("<|im_start|>assistant\n", "<|start|>assistant"),
        sureness: float = 0.9,
    ) -> None:
        self.name = "speaker"
        self.vocabulary = Vocabulary.of(tokenizer)
        self.vocab_size = len(self.vocabulary)
        self.hidden_size = 0
        self.context_size: int | None = None
        self.device = torch.device("cpu")
        self.place: Hashable = "speakers"
        self.stats = ScorerStats()
        self.read: list[str] = []
        self._tokenizer = tokenizer
        self._ids = ByteTokenizer(tokenizer, self.vocabulary)
        self._texts = texts
        self._begins = begins
        self._sureness = sureness

    def _scored(self, query: Query) -> Scored:
        rest = (1 - self._sureness) / self.vocab_size
        rows = torch.full((query.last, self.vocab_size), rest, dtype=torch.float64)
        for row in range(query.last):
            ids = query.ids[: len(query.ids) - query.last + row + 1]
            rows[row, self._next(ids)] += self._sureness
        return Scored(rows.log())

    def _next(self, ids: Sequence[int]) -> int:
        """The token that it would write next."""
        markup, kinds = self._tokenizer.convert_ids_to_tokens, self.vocabulary.token_bytes
        read = b"".join(kinds[i] or str(markup(i)).encode() for i in ids)
        self.read.append(read.decode(errors="replace"))
        marks = [mark.encode() for mark in self._begins]
        at = max((read.rfind(mark) + len(mark) for mark in marks if mark in read), default=0)
        written = read[at:]
        for text in map(str.encode, self._texts):
            if text.startswith(written) and text != written:
                return self._first(text[len(written) :])
        return min(self.vocabulary.end_ids)

    def _first(self, text: bytes) -> int:
        """The first token of a text with markup, which may begin with the rest of a character."""
        rest = text[: len(text) - len(text.lstrip(_LATER_BYTES))]
        return (self._ids.encode(rest) if rest else self._ids.encode_markup(text.decode()))[0]
