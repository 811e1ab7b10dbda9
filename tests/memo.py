"""What ensembles make of the real tokenizers is made once: it takes a second each, and is pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from gac_core import runtime
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import Vocabulary
from tests.fakes import is_real


@contextmanager
def made_once() -> Iterator[None]:
    """Keep vocabularies, tokenizers and unions, by the identity of what they are made of."""
    known: dict[Any, Any] = {}
    of = Vocabulary.of

    def once(key: Any, make: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = make()
        return known[key]

    def vocabulary(
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int | None = None,
        end_ids: Iterable[int] = (),
        text_tokens: Iterable[str] = (),
    ) -> Any:
        ends, texts = frozenset(end_ids), tuple(text_tokens)

        def make() -> Vocabulary:
            return of(tokenizer, vocab_size=vocab_size, end_ids=ends, text_tokens=texts)

        return (
            once((id(tokenizer), vocab_size, ends, texts), make) if is_real(tokenizer) else make()
        )

    def byte_tokenizer(tokenizer: PreTrainedTokenizerBase, own: Vocabulary) -> Any:
        def make() -> ByteTokenizer:
            return ByteTokenizer(tokenizer, own)

        return once((id(tokenizer), id(own)), make) if is_real(tokenizer) else make()

    def union(
        own: Sequence[Vocabulary], primary: int = 0, device: Any = "cpu", *, by_bytes: bool = False
    ) -> Any:
        def make() -> UnionVocabulary:
            return UnionVocabulary(own, primary, device, by_bytes=by_bytes)

        kept = {id(value) for value in known.values()}
        key = (*map(id, own), primary, torch.device(device), by_bytes)
        return once(key, make) if kept.issuperset(map(id, own)) else make()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vocabulary, "of", vocabulary)
        patch.setattr(runtime, "ByteTokenizer", byte_tokenizer)
        patch.setattr(runtime, "UnionVocabulary", union)
        yield
