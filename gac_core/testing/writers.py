"""Members that would each write a given text, cut into tokens in ways of their own."""

import random
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from typing import Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gac_core.members.base import Query, Scored, ScorerStats
from gac_core.testing.models import CORPUS, FAMILIES, LACKING, tokenizer_of
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import Vocabulary

# What tokenizers cut differently: blanks, tabs, line breaks, digits, words, characters.
AGREED_TEXTS: Final = (
    "    while b:\n        a, b = b, a % b\n\n\n    return a\n",
    "\tif x:\n\t\ty = 1\n\n\tz  =   2\r\n",
    "1234567, 89.000 and 3.14159 in 2026",
    "getHTTPResponseCode = parseXMLToJSONString2(x_y_z)",
    "déjà l'été à Besançon, schönes Wetter für Ærøskøbing",
    "你好，世界。こんにちは Привет, мир",
    "🙂🙂👍🏽 ok 🙂\n\n",
    "Hello world, how are you today? I am fine, thank you.",
    "          \n\n\n\n   .",
)

# How a tokenizer of `CUTS` splits a text into the words within which it merges; None if not at all.
_SPLITS: Final[dict[str, str | None]] = {
    "whole": None,
    "singles": r"\s|\d|\w|[^\s\w]",
    "blanks": r" +|\n+|\t+|\d{1,3}|[A-Z]?[a-z]+|[^\s\w]+|\w",
    "lines": r"[^\n]{1,12}\n*|\n+",
}
CUTS: Final = (*_SPLITS, *FAMILIES)


@cache
def cutting_tokenizer(cut: str) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts `AGREED_TEXTS` in its own way: one of `CUTS`, or of `LACKING`."""
    if cut in FAMILIES + LACKING:
        return tokenizer_of(cut)
    split, end = _SPLITS[cut], f"<|end of {cut}|>"
    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*words, byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(end, special=True, normalized=False)],
        show_progress=False,
    )
    backend.train_from_iterator([*AGREED_TEXTS, *CORPUS] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, clean_up_tokenization_spaces=False
    )


_CUTTERS: Final[tuple[Callable[[list[int], random.Random], int], ...]] = (
    lambda fitting, _: fitting[-1],  # the longest
    lambda fitting, _: fitting[0],  # the shortest
    lambda fitting, rng: rng.choice(fitting),
)


class Uncached(ABC):
    """The part of a `Scorer` that answers each query for itself and keeps nothing."""

    stats: ScorerStats

    def score(
        self,
        queries: Sequence[Query],
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002
    ) -> list[Scored]:
        """See `Scorer`."""
        self.stats.queries += len(queries)
        return [self._scored(query) for query in queries]

    @abstractmethod
    def _scored(self, query: Query) -> Scored:
        """The answer to a query."""

    def drop(self, keys: Iterable[Hashable]) -> None:  # noqa: B027
        """See `Scorer`; nothing is kept."""

    def clear(self) -> None:  # noqa: B027
        """See `Scorer`; nothing is kept."""


class Writer(Uncached):
    """A `Scorer` that would write one text, surer than a half of each of its tokens.

    Behind any beginning of the text one token that goes on with it has more than half of the mass;
    which, and how much, is drawn anew for each place. The rest goes to rivals, most of them with
    the same first byte, some of them other cuts of the text. All other ids are next to impossible.

    Args:
        tokenizer: in whose ids it reads and writes.
        text: what it writes, and then the end.
        seed: of what is drawn.
        sureness: least and greatest probability of the token that goes on.
        is_canonical: whether it writes the tokens of its tokenizer; else the longest, the shortest
            or any, as its seed says.
        hidden_size: of its hidden states, which are drawn, too.

    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text: bytes,
        *,
        seed: int = 0,
        sureness: tuple[float, float] = (0.51, 0.99),
        is_canonical: bool = True,
        hidden_size: int = 32,
    ) -> None:
        self.name = f"writer-{seed}"
        self.vocabulary = Vocabulary.of(tokenizer)
        self.text = text
        self.prompt_length = 0
        self._hidden = 0  # bytes before the text: a space that is only a spelling
        self.vocab_size = len(self.vocabulary)
        self.hidden_size = hidden_size
        self.context_size = None
        self.device = torch.device("cpu")
        self.place: Hashable = "writers"
        self.stats = ScorerStats()
        self._encode = ByteTokenizer(tokenizer, self.vocabulary).encode
        self._cut = None if is_canonical else _CUTTERS[seed % 3]
        self._seed = seed
        self._sureness = sureness
        self._by_first_byte = defaultdict[int, list[int]](list)
        for data, token in sorted(self.vocabulary.ids_by_bytes.items()):
            self._by_first_byte[data[0]].append(token)

    def begin(self, prompt_length: int, *, leading_space: bool) -> None:
        """Write behind a prompt of so many ids, perhaps with a space that is only a spelling."""
        self.prompt_length = prompt_length
        if leading_space:
            self.text, self._hidden = b" " + self.text, 1

    def probs_at(self, at: int) -> dict[int, float]:
        """The probability of each likely id behind so many bytes of the text."""
        rng = random.Random(f"{self._seed} {at}")
        ids, rest = self.vocabulary.ids_by_bytes, self.text[at:]
        ends = sorted(self.vocabulary.end_ids)
        fitting = [ids[rest[:n]] for n in range(1, len(rest) + 1) if rest[:n] in ids]
        right = ends[0]
        if fitting:
            right = self._encode(rest)[0] if self._cut is None else self._cut(fitting, rng)
        sureness = rng.uniform(*self._sureness) if at >= self._hidden else 0.99
        alike = self._by_first_byte[rest[0] if rest else 10]
        rivals = [
            *(r for r in rng.sample(alike, min(3, len(alike))) if not self._is_veiled(r, right)),
            rng.choice(ends),
            *fitting,  # what goes on with the text in another cut is never impossible
        ]
        shares = [rng.random() / (1 + 9 * (rival in fitting)) for rival in rivals]
        probs = {right: sureness}
        for rival, share in zip(rivals, shares, strict=True):
            probs[rival] = probs.get(rival, 0.0) + (1 - sureness) * share / sum(shares)
        return probs

    def _is_veiled(self, rival: int, right: int) -> bool:
        """Whether a rival begins with the right token, so that it still rivals what follows that.

        Next to what follows it could be more probable than a half.
        """
        tokens = self.vocabulary.token_bytes
        return bool(tokens[right]) and tokens[rival].startswith(tokens[right])

    def _scored(self, query: Query) -> Scored:
        count, tokens = len(query.ids), self.vocabulary.token_bytes
        rows = torch.full((query.last, self.vocab_size), -30.0, dtype=torch.float64)
        hidden = torch.zeros(query.last, self.hidden_size)
        for row, length in enumerate(range(count - query.last + 1, count + 1)):
            written = b"".join(tokens[i] for i in query.ids[self.prompt_length : length])
            generator = torch.Generator().manual_seed(len(written))
            hidden[row] = torch.randn(self.hidden_size, generator=generator)
            if self.text.startswith(written):
                for token, prob in self.probs_at(len(written)).items():
                    rows[row, token] = torch.tensor(prob, dtype=torch.float64).log()
            else:
                rows[row] = 0.0
        return Scored(rows, hidden if query.hidden else None)
