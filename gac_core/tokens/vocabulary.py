"""The bytes and the kind of every token of a tokenizer.

``get_vocab()`` strings and ``decode([id])`` are not the bytes a token stands for: the first writes
them in an alphabet of its own, the second loses leading spaces and turns half a character into
U+FFFD. So the bytes are read from the tokenizer's own specification, as its decoder would.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer

from gac_core.errors import VocabularyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bytes that occur in no text: those that UTF-8 never uses, and those that begin only characters of
# the planes 4 to 11, none of which is assigned.
NEVER_IN_TEXT: Final = frozenset({0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)})
# What every member of an ensemble can spell: printable ASCII, tab and newline.
IN_EVERY_TEXT: Final = frozenset({0x09, 0x0A, *range(0x20, 0x7F)})


class TokenKind(IntEnum):
    """What a row of a member's logits stands for."""

    TEXT = 0
    CONTROL = 1  # beginning of text, turns, tools, ...: never part of an answer
    END = 2  # ends the answer: EOS, or the end of a turn
    HOLE = 3  # an id that no token has
    PADDING = 4  # a row of the logits after the tokenizer's last id


@dataclass(frozen=True)
class Vocabulary:
    """A member's tokens by row of its logits.

    Attributes:
        token_bytes: the bytes each row stands for; empty where the row is no text.
        kinds: what each row is.
        byte_fallbacks: rows that spell one byte for want of a better token (``<0x41>``).
        added_text: rows of added tokens that are plain text (runs of spaces, ...).

    """

    token_bytes: tuple[bytes, ...]
    kinds: tuple[TokenKind, ...]
    byte_fallbacks: frozenset[int] = frozenset()
    added_text: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if len(self.token_bytes) != len(self.kinds):
            raise ValueError("token_bytes and kinds must have one entry per row")

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.kinds)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer (EOS, end of turn)."""
        return frozenset(i for i, kind in enumerate(self.kinds) if kind is TokenKind.END)

    @cached_property
    def text_ids(self) -> tuple[int, ...]:
        """The ids that stand for text, ascending."""
        return tuple(i for i, kind in enumerate(self.kinds) if kind is TokenKind.TEXT)

    @cached_property
    def text_by_id(self) -> tuple[bytes, ...]:
        """The bytes of each row up to the last one that is text."""
        return self.token_bytes[: self.text_ids[-1] + 1]

    @cached_property
    def ids_by_bytes(self) -> Mapping[bytes, int]:
        """The id of each byte string; of several, the one the tokenizer's own encoding reaches.

        Added tokens are matched before the model sees the text, and byte fallback is its last
        resort, so they come first and last.
        """
        ids: dict[bytes, int] = {}
        by_reach = (self.byte_fallbacks, frozenset(self.text_ids), self.added_text)
        for group in by_reach:  # later groups win
            skip = self.byte_fallbacks if group is not self.byte_fallbacks else frozenset()
            for i in sorted(group - skip, reverse=True):
                if self.kinds[i] is TokenKind.TEXT:
                    ids[self.token_bytes[i]] = i
        return ids

    def cover(self, data: bytes) -> tuple[list[int], int]:
        """The longest tokens that fit, from left to right; shorter ones where no others go on.

        Returns:
            Their ids, and the number of bytes they cover: all, unless no tokens spell them.

        """
        tokens, ids, at = self.ids_by_bytes, list[int](), 0
        reached, furthest = 0, list[int]()
        dead: set[int] = set()  # places from which no tokens lead to the end
        while at < len(data):
            for length in self._lengths.get(data[at : at + 1], ()):
                end = at + length
                if end <= len(data) and end not in dead and (piece := data[at:end]) in tokens:
                    ids.append(tokens[piece])
                    at = end
                    break
            else:
                dead.add(at)
                if at > reached:
                    reached, furthest = at, ids.copy()
                if not ids:
                    return furthest, reached
                at -= len(self.token_bytes[ids.pop()])
        return ids, at

    @cached_property
    def _lengths(self) -> Mapping[bytes, Sequence[int]]:
        """By first byte, the lengths of the tokens that begin with it, in bytes, longest first."""
        lengths: defaultdict[bytes, set[int]] = defaultdict(set)
        for data in self.ids_by_bytes:
            lengths[data[:1]].add(len(data))
        return {first: sorted(found, reverse=True) for first, found in lengths.items()}

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """The byte values that no token of one byte stands for."""
        return frozenset(b for b in range(256) if bytes([b]) not in self.ids_by_bytes)

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int | None = None,
        end_ids: Iterable[int] = (),
        text_tokens: Iterable[str] = (),
    ) -> Vocabulary:
        """The vocabulary of a Hugging Face tokenizer.

        Args:
            tokenizer: any tokenizer with a `tokenizers` backend.
            vocab_size: the model's logits per position, if not the number of the tokenizer's ids.
            end_ids: ids that end an answer, besides the tokenizer's own and its template's.
            text_tokens: added tokens to count as text although they look like markup
                (``<think>``, ``<table>``).

        Raises:
            VocabularyError: the bytes of its tokens can not be read from its specification, it has
                text tokens that the model has no logits for, or no end token at all.

        """
        table = _Table(tokenizer, vocab_size or 0)
        table.add_pieces()
        table.add_added_tokens(set(text_tokens))
        table.add_ends(end_ids)
        if vocab_size is not None:
            table.cut(vocab_size)
        kinds = table.kinds
        return cls(
            tuple(table.token_bytes),
            tuple(kinds),
            frozenset(i for i in table.byte_fallbacks if kinds[i] is TokenKind.TEXT),
            frozenset(i for i in table.added_text if kinds[i] is TokenKind.TEXT),
        )


class _Table:
    """The rows of a vocabulary while they are filled in, later kinds over earlier ones.

    Args:
        tokenizer: the tokenizer of the vocabulary.
        vocab_size: the least number of rows.

    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._name = tokenizer_name(tokenizer)
        backend = fast_backend(tokenizer)
        self._added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        vocabulary = backend.get_vocab(with_added_tokens=False)
        self._pieces = {i: piece for piece, i in vocabulary.items()}
        self._size = 1 + max((*self._pieces, *self._added))
        count = max(self._size, vocab_size)
        self.token_bytes = [b""] * count
        self.kinds = [TokenKind.HOLE] * self._size + [TokenKind.PADDING] * (count - self._size)
        self.byte_fallbacks: set[int] = set()
        self.added_text: set[int] = set()

    def add_pieces(self) -> None:
        """The tokens of the tokenizer's model: text, but for the unknown one."""
        bytes_of = _token_decoder(self._tokenizer)
        has_fallback = "ByteFallback" in _decoder_types(self._tokenizer)
        unknown_id = self._tokenizer.unk_token_id
        for i, piece in self._pieces.items():
            if i == unknown_id:
                self.kinds[i] = TokenKind.CONTROL
            elif data := bytes_of(piece):
                self.token_bytes[i], self.kinds[i] = data, TokenKind.TEXT
                if has_fallback and _BYTE_PIECE.fullmatch(piece):
                    self.byte_fallbacks.add(i)

    def add_added_tokens(self, as_text: set[str]) -> None:
        """Added tokens: control tokens, but for plain text and what is to count as text."""
        if unknown := as_text - {token.content for token in self._added.values()}:
            raise VocabularyError(
                f"text_tokens names {sorted(unknown)}, which {self._name} has not added"
            )
        for i, token in self._added.items():
            content = token.content
            if content in as_text or is_plain_text(token):
                # A piece of the model, too, stands for its own bytes ("▁▁" for two spaces).
                is_piece = i in self._pieces and self.kinds[i] is TokenKind.TEXT
                data = self.token_bytes[i] if is_piece else content.encode()
                self.token_bytes[i], self.kinds[i] = data, TokenKind.TEXT
                self.added_text.add(i)
            else:
                self.token_bytes[i], self.kinds[i] = b"", TokenKind.CONTROL

    def add_ends(self, end_ids: Iterable[int]) -> None:
        """What ends an answer: these ids, the tokenizer's EOS, and the end of a template's turn."""
        ends = {*end_ids, *template_end_ids(self._tokenizer)}
        if self._tokenizer.eos_token_id is not None:
            ends.add(self._tokenizer.eos_token_id)
        count = len(self.kinds)
        for i in ends:
            if not 0 <= i < count:
                raise VocabularyError(f"end id {i} is outside the {count} rows of the model")
            self.token_bytes[i], self.kinds[i] = b"", TokenKind.END
        if not ends:
            raise VocabularyError(
                f"{self._name} has no end token, so no answer would ever end; "
                "set eos_token_id in the model's generation config"
            )

    def cut(self, vocab_size: int) -> None:
        """Leave out ids for which the model has no logits; they must be no text and no end."""
        needed = (TokenKind.TEXT, TokenKind.END)
        if lost := [i for i in range(vocab_size, self._size) if self.kinds[i] in needed]:
            raise VocabularyError(
                f"{self._name} has {len(lost)} tokens the model has no rows for "
                f"(ids {lost[0]} to {lost[-1]}, the model has {vocab_size} rows); "
                "tokenizer and model do not belong together"
            )
        self.token_bytes = self.token_bytes[:vocab_size]
        self.kinds = self.kinds[:vocab_size]


_BYTE_PIECE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # byte fallback of SentencePiece
# Added tokens such as <tool_call>, </s>, <｜User｜>, [INST]: markup even if not marked as special.
_MARKUP: Final = re.compile(r"\s*(<\S.*>|\[\S.*\]|[|｜].*[|｜])\s*", re.DOTALL)


def is_plain_text(token: AddedToken) -> bool:
    """Whether an added token is text (runs of spaces or line breaks), and no control token."""
    return not (token.special or _MARKUP.fullmatch(token.content))


def fast_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's `tokenizers` backend as it was loaded, which can differ from its file.

    Raises:
        VocabularyError: it has no `tokenizers` backend.

    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise VocabularyError(
            f"{tokenizer_name(tokenizer)} ({type(tokenizer).__name__}) has no fast tokenizer; "
            "convert it to a tokenizer.json"
        )
    return backend


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """What messages call the tokenizer."""
    return f"the tokenizer {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "a tokenizer"


def component_specs(component: Any, list_name: str) -> list[dict[str, Any]]:
    """A normalizer, pre-tokenizer or decoder as the specifications of its steps, in order."""
    if component is None:
        return []
    spec = json.loads(component.__getstate__())
    return list(spec[list_name]) if spec["type"] == "Sequence" else [spec]


def _decoder_types(tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, Any]]:
    """The steps of its decoder by type."""
    steps = component_specs(fast_backend(tokenizer).decoder, "decoders")
    return {step["type"]: step for step in steps}


def _token_decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], bytes]:
    """The function that gives the bytes of a piece, as the decoder of the tokenizer would."""
    decoders = _decoder_types(tokenizer)
    if "ByteLevel" in decoders:
        alphabet = byte_alphabet()
        # Latin-1 characters outside the alphabet must not be taken for bytes.
        to_latin = str.maketrans(
            {chr(c): "\u2400" for c in range(256) if chr(c) not in alphabet}
            | {char: chr(byte) for char, byte in alphabet.items()}
        )

        def byte_level(piece: str) -> bytes:
            try:
                return piece.translate(to_latin).encode("latin-1")
            except UnicodeEncodeError:
                return piece.encode()  # as the decoder does with characters outside its alphabet

        return byte_level
    spaces = [d["replacement"] for t, d in decoders.items() if t == "Metaspace"] + [
        d["pattern"]["String"]
        for t, d in decoders.items()
        if t == "Replace" and d["content"] == " " and "String" in d["pattern"]
    ]
    if not spaces:
        raise VocabularyError(
            f"{tokenizer_name(tokenizer)} has the decoder {sorted(decoders) or 'none'}, from which "
            "the bytes of its tokens can not be read; byte-level BPE and SentencePiece models can "
            "be used"
        )
    space = spaces[0]
    has_fallback = "ByteFallback" in decoders

    def sentence_piece(piece: str) -> bytes:
        if has_fallback and (match := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        return piece.replace(space, " ").encode()

    return sentence_piece


@cache
def byte_alphabet() -> dict[str, int]:
    """The byte each character of the byte-level alphabet stands for.

    Bytes that are printable Latin-1 stand for themselves, the others for U+0100 upwards, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (b for b in range(256) if b not in printable)
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def template_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The token the chat template ends an assistant's turn with, if it is an added token."""
    if not tokenizer.chat_template:
        return frozenset()
    mark = "turn-9137-end"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError):
        return frozenset()  # a template for other turns; the other sources of end ids remain
    _, found, tail = str(text).rpartition(mark)
    tail = tail.lstrip() if found else ""
    contents = sorted(tokenizer.added_tokens_encoder, key=len, reverse=True)
    end = next((c for c in contents if tail.startswith(c)), None)
    return frozenset() if end is None else frozenset({tokenizer.added_tokens_encoder[end]})


def are_same_text(vocabularies: Sequence[Vocabulary]) -> bool:
    """Whether all have the same text at the same ids; padding rows and end tokens may differ."""
    return all(
        v is vocabularies[0] or v.text_by_id == vocabularies[0].text_by_id for v in vocabularies
    )
