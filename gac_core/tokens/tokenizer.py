"""Text to a member's own token ids, with nothing lost and no control token by accident.

A tokenizer's `encode` adds a BOS token, puts a space before the text, turns typed markup into
control tokens and normalises. Three other things are needed: a raw prompt as the model expects it
(`encode_prompt`), the continuation of a text (`encode`), and one unit (`encode_unit`). Each runs
the tokenizer's own model after only those of its normalizers and pre-tokenizers that belong there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Tokenizer

from gac_core.errors import CannotSpellError, RewritesTextError
from gac_core.tokens.sorted_tokens import SortedTokens
from gac_core.tokens.vocabulary import (
    IN_EVERY_TEXT,
    TokenKind,
    Vocabulary,
    component_specs,
    fast_backend,
    tokenizer_name,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that come back unchanged from a tokenizer that keeps case and accents, or blanks.
_LETTERS: Final = ("Hello World", "Älter café Ñandú", "STRASSE straße", "Привет Мир")
_BLANKS: Final = ("a  b", "a\nb\n\nc", "\ta\t b", "a ", "if x:\n    y")
_LETTER_AND_SPACE: Final = re.compile(rb"[A-Za-z] ")  # in a token that goes on over a word's end
_MOST_REMEMBERED: Final = 100_000  # byte strings whose first token is known
_NEXT_WORD: Final = b"a"
_WORDS_LOOKED_BACK: Final = 32  # spaces before the end at which a word may begin


class ByteTokenizer:
    """A member's tokenizer by bytes: ids for exactly the bytes that are given.

    Args:
        tokenizer: the member's tokenizer.
        vocabulary: its tokens.

    Attributes:
        name: what messages call it.
        vocabulary: its tokens.
        bos_ids: the ids that begin a text, none or one.

    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        self.name = tokenizer_name(tokenizer)
        self.vocabulary = vocabulary
        self.bos_ids = _bos_ids(tokenizer, vocabulary)
        backend = fast_backend(tokenizer)
        normalizers = component_specs(backend.normalizer, "normalizers")
        pre_tokenizers = component_specs(backend.pre_tokenizer, "pretokenizers")
        self._encode_start = _Encoder(backend, vocabulary, normalizers, pre_tokenizers)
        self._encode_continuation = _Encoder(
            backend,
            vocabulary,
            [n for n in normalizers if n["type"] == "Replace"],
            [_without_prefix(p) for p in pre_tokenizers],
        )
        self._adds_leading_space = self._bytes(self._encode_start("a")).startswith(b" ")
        # If no token contains a letter and then a space, a space after a letter always begins a
        # token.
        self._words_begin_tokens = not any(
            _LETTER_AND_SPACE.search(data) for data in vocabulary.ids_by_bytes if b" " in data[1:]
        )
        self._markup_ids = {  # by text
            token.content: i
            for i, token in backend.get_added_tokens_decoder().items()
            if i < len(vocabulary) and vocabulary.kinds[i] is not TokenKind.TEXT
        }
        self._unit_ids: dict[bytes, tuple[int, ...]] = {}  # by unit
        self._first_tokens: dict[bytes, bytes] = {}  # by what they begin

    @cached_property
    def sorted_tokens(self) -> SortedTokens:
        """The text tokens in the order of their bytes; sorting many takes a while."""
        return SortedTokens(self.vocabulary)

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a raw prompt, with the BOS token the tokenizer would add; markup stays text.

        Raises:
            CannotSpellError: some characters have no token.

        """
        ids = self._encode_start(text)
        # An unknown character, or markup that is a piece (Unigram).
        if not self._is_text(ids) or self.lost_character(text) is not None:
            prefix = b" " if self._adds_leading_space else b""
            ids = self.encode_greedily(prefix + text.encode())
        return [*self.bos_ids, *ids]

    def encode_markup(self, text: str) -> list[int]:
        """The ids of a text with markup: added tokens, and what stands between them.

        Raises:
            CannotSpellError: some characters have no token.

        """
        ids = list[int]()
        for piece in self._markup.split(text):
            token = self._markup_ids.get(piece)
            ids.extend(self.encode(piece.encode()) if token is None else (token,))
        return ids

    @cached_property
    def _markup(self) -> re.Pattern[str]:
        longest_first = sorted(self._markup_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def lost_character(self, text: str) -> str | None:
        """The first character that this tokenizer loses, for want of a token; None if none is lost.

        What its normalizer makes of a character is not lost.
        """
        if self.vocabulary.missing_bytes.isdisjoint(text.encode()):
            return None
        ids = self._encode_start(text)
        if self._is_text(ids) and self._bytes(ids) in (text.encode(), b" " + text.encode()):
            return None
        return next((char for char in dict.fromkeys(text) if self._loses(char)), None)

    def _loses(self, char: str) -> bool:
        data = char.encode()
        if self.vocabulary.missing_bytes.isdisjoint(data):
            return False
        ids = self._encode_start(char)
        if not self._is_text(ids):
            return True
        normalized = self._encode_start.normalized(char).lstrip("\u2581 ")
        if normalized != char:
            return bool(normalized) and not self._bytes(ids).strip()
        return self._bytes(ids).removeprefix(b" ") != data

    def encode(self, data: bytes) -> list[int]:
        """The ids with which the tokenizer itself would write these bytes, as the rest of a text.

        The ids stand for exactly these bytes. Bytes that are no valid UTF-8 (half a character at
        the end) are covered with the longest tokens that fit.

        Raises:
            CannotSpellError: some bytes have no token.

        """
        ids: list[int] = []
        rest = data
        while rest:
            try:
                text, rest, broken = rest.decode(), b"", b""
            except UnicodeDecodeError as error:
                text = rest[: error.start].decode()
                broken, rest = rest[error.start : error.end], rest[error.end :]
            if text:
                ids.extend(self._encode_text(text))
            if broken:
                ids.extend(self.encode_greedily(broken))
        return ids

    def encode_open(
        self, data: bytes, known: bytes = b"", known_ids: Sequence[int] = ()
    ) -> list[int]:
        """The ids of a text that goes on, given those of a beginning of it.

        Many tokenizers cut blanks at the end of a text otherwise than before a word (two line
        breaks as one token, not as two), so blanks are encoded as if a word came next; if their
        last one belongs to that word, as at the end of a text.

        Only the ids that may change are encoded anew: from the last word on that has a space before
        it, so the cost does not grow with the text.

        Args:
            data: the bytes to encode.
            known: a beginning of them.
            known_ids: ``encode_open(known)``.

        Raises:
            CannotSpellError: some bytes have no token.

        """
        if data[-1:].isspace():
            ids = self._encode_longer(data + _NEXT_WORD, known, known_ids)
            surplus = len(_NEXT_WORD)
            while surplus > 0:
                surplus -= len(self.vocabulary.token_bytes[ids.pop()])
            if surplus == 0:
                return ids
        return self._encode_longer(data, known, known_ids)

    def _encode_longer(self, data: bytes, known: bytes, known_ids: Sequence[int]) -> list[int]:
        start = _last_word_start(known) if self._words_begin_tokens else 0
        at, count = len(known), len(known_ids)
        while at > start:
            count -= 1
            at -= len(self.vocabulary.token_bytes[known_ids[count]])
        if start == 0 or at != start:
            return self.encode(data)
        return [*known_ids[:count], *self.encode(data[start:])]

    def _encode_text(self, text: str) -> list[int]:
        ids, data = self._encode_continuation(text), text.encode()
        if self._is_text(ids) and self._bytes(ids) == data:
            return ids
        return self.encode_greedily(data)

    def _is_text(self, ids: Sequence[int]) -> bool:
        kinds = self.vocabulary.kinds
        return all(kinds[i] is TokenKind.TEXT for i in ids)

    def _bytes(self, ids: Sequence[int]) -> bytes:
        tokens = self.vocabulary.token_bytes
        return b"".join([tokens[i] for i in ids])

    def encode_unit(self, unit: bytes) -> tuple[int, ...]:
        """The ids of one unit: its own token if there is one, else as `encode` gives them.

        Raises:
            CannotSpellError: some bytes have no token.

        """
        ids = self._unit_ids.get(unit)
        if ids is None:
            own = self.vocabulary.ids_by_bytes.get(unit)
            ids = tuple(self.encode(unit)) if own is None else (own,)
            self._unit_ids[unit] = ids
        return ids

    def first(self, data: bytes) -> bytes:
        """The bytes of the token with which the tokenizer itself begins to write these bytes.

        Empty if it can not write them. Remembered, since the same few are asked for over and over.
        """
        found = self._first_tokens.get(data)
        if found is None:
            if len(self._first_tokens) >= _MOST_REMEMBERED:
                self._first_tokens.clear()
            found = b""
            with suppress(CannotSpellError):
                found = self.vocabulary.token_bytes[self.encode(data)[0]]
            self._first_tokens[data] = found
        return found

    def encode_greedily(self, data: bytes) -> list[int]:
        """The ids of the longest tokens that fit, from left to right.

        Raises:
            CannotSpellError: some bytes have no token.

        """
        ids, covered = self.vocabulary.cover(data)
        if covered < len(data):
            raise CannotSpellError(f"{self.name} has no tokens for {_character_at(data, covered)}")
        return ids

    def check(self) -> None:
        """Refuse a tokenizer that can not write ordinary text, or that changes the text it reads.

        Raises:
            RewritesTextError: it changes text (lower-cases, strips accents, drops blanks).
            CannotSpellError: printable ASCII, tab or newline have no token.

        """
        self._check_rewriting(_LETTERS)
        missing = sorted(self.vocabulary.missing_bytes & IN_EVERY_TEXT)
        if missing:
            shown = " ".join(repr(chr(b)) for b in missing[:16]) + " ..." * (len(missing) > 16)
            raise CannotSpellError(
                f"{self.name} has no tokens for {len(missing)} of the characters that every text "
                f"is made of ({shown}), so it can not follow what other members write; use a model "
                "whose tokenizer is byte-level or has byte fallback, or use this one alone"
            )
        self._check_rewriting(_BLANKS)

    def _check_rewriting(self, probes: Sequence[str]) -> None:
        for text in probes:
            ids = self._encode_start(text)
            if not self._is_text(ids) or self.lost_character(text) is not None:
                continue  # unknown characters; `check` looks for them by bytes
            read = self._bytes(ids).decode(errors="replace")
            if read not in (text, " " + text):
                raise RewritesTextError(
                    f"{self.name} reads {text!r} as {read!r}: it changes the text it is given, so "
                    "it can not share a text with other members; use this model alone"
                )


def _character_at(data: bytes, place: int) -> str:
    """The character of which the byte at a place is a part, for messages; else the byte."""
    start = place
    while start > 0 and 0x80 <= data[start] < 0xC0:
        start -= 1
    char = data[start : start + 4].decode(errors="replace")[:1]
    named = f"the byte 0x{data[place]:02X}"
    return named if char == "\ufffd" else f"{named} of {char!r} (U+{ord(char):04X})"


def _last_word_start(data: bytes) -> int:
    """Where the last " x" after a letter begins, x a letter; 0 if there is none near the end."""
    end = len(data) - 1
    for _ in range(_WORDS_LOOKED_BACK):
        end = data.rfind(b" ", 1, end)
        if end < 0:
            return 0
        if data[end - 1 : end].isalpha() and data[end + 1 : end + 2].isalpha():
            return end
    return 0


class _Encoder:
    """A tokenizer's model after chosen components, with only those added tokens that are text."""

    def __init__(
        self,
        backend: Tokenizer,
        vocabulary: Vocabulary,
        normalizers: list[dict[str, Any]],
        pre_tokenizers: list[dict[str, Any]],
    ) -> None:
        shell: dict[str, Any] = {
            "version": "1.0",
            "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": (
                {"type": "Sequence", "pretokenizers": pre_tokenizers} if pre_tokenizers else None
            ),
            "model": {"type": "BPE", "vocab": {}, "merges": []},
        }
        self._tokenizer = Tokenizer.from_str(json.dumps(shell))
        self._tokenizer.model = backend.model  # shared, not copied
        added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        self._tokenizer.add_tokens([added[i] for i in sorted(vocabulary.added_text)])
        # Without the control tokens between them, added tokens get other ids.
        self._true_ids = {
            other: true
            for true in vocabulary.added_text
            if (other := self._tokenizer.token_to_id(added[true].content)) != true
        }

    def normalized(self, text: str) -> str:
        """The text as the model reads it."""
        return str(self._tokenizer.normalizer.normalize_str(text))

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._true_ids:
            return [self._true_ids.get(i, i) for i in ids]
        return ids


def _without_prefix(pre_tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The pre-tokenizer without the space it would put before a text."""
    match pre_tokenizer["type"]:
        case "Metaspace":
            return {**pre_tokenizer, "prepend_scheme": "never"}
        case "ByteLevel":
            return {**pre_tokenizer, "add_prefix_space": False}
        case "Sequence":
            inner = [_without_prefix(p) for p in pre_tokenizer["pretokenizers"]]
            return {**pre_tokenizer, "pretokenizers": inner}
        case _:
            return pre_tokenizer


def _bos_ids(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> list[int]:
    """The ids of the BOS token, if the tokenizer puts one before a text."""
    ids = tokenizer("a").input_ids
    count = next((n for n, i in enumerate(ids) if vocabulary.kinds[i] is TokenKind.TEXT), 0)
    return [i for i in ids[:count] if i == tokenizer.bos_token_id]
