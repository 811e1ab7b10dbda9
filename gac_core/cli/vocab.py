"""`gac vocab`: how well the tokenizers of models go together."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from gac_core import pocket
from gac_core.cli.options import read_text
from gac_core.cli.terminal import err, out
from gac_core.errors import VocabularyError
from gac_core.member_config import MemberConfig

if TYPE_CHECKING:
    from gac_core.tokens.tokenizer import ByteTokenizer


def vocab(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, GGUF files or hub names; only tokenizers are loaded."),
    ] = None,
    *,
    words: Annotated[
        Path | None,
        typer.Option(help="Common words, one a line. Default: 5,000 from wordfreq, if installed."),
    ] = None,
) -> None:
    """Compare vocabularies: how much of them is common, how large their union is.

    "words alike" is the share of common words that two tokenizers write with the same pieces.
    It was above 90% for all pairs of the GaC paper; others rely on re-encoded histories, which
    are the default.
    """
    common_words = _common_words(words)
    tokenizers = _load(models)
    refusals = {name: _refusal(tokenizer) for name, tokenizer in tokenizers.items()}
    console = out()
    console.print(_counts_table(tokenizers, refusals))
    for refusal in filter(None, refusals.values()):
        console.print(Text(refusal, style="yellow"))
    if len(tokenizers) < 2:
        return
    console.print()
    console.print(_pairs_table(tokenizers, common_words))
    units = set().union(*(t.vocabulary.ids_by_bytes for t in tokenizers.values()))
    console.print(f"\nunion of all: {len(units):,} units of text and the end", highlight=False)
    if not common_words:
        err().print(
            "For the share of words alike: pip install wordfreq, or --words FILE", style="dim"
        )


def _common_words(path: Path | None) -> list[str]:
    if path is not None:
        return read_text(path, "--words").split()
    try:
        from wordfreq import top_n_list
    except ImportError:
        return []
    return list(top_n_list("en", 5000))


def _load(models: Sequence[str] | None) -> dict[str, "ByteTokenizer"]:
    """The tokenizers of models, by name; of the pocket members by default."""
    from gac_core.members.loading import load_tokenizers
    from gac_core.tokens.tokenizer import ByteTokenizer
    from gac_core.tokens.vocabulary import Vocabulary

    paths = models or [str(pocket.folder(name)) for name in pocket.NAMES]
    loaded = load_tokenizers([MemberConfig(model=path) for path in paths])
    return {name: ByteTokenizer(t, Vocabulary.of(t)) for name, t in loaded.items()}


def _refusal(tokenizer: "ByteTokenizer") -> str:
    """Why a tokenizer can not join an ensemble; empty if it can."""
    try:
        tokenizer.check()
    except VocabularyError as error:
        return str(error)
    return ""


def _counts_table(tokenizers: Mapping[str, "ByteTokenizer"], refusals: Mapping[str, str]) -> Table:
    """A line per tokenizer: its tokens by kind, and whether it can join an ensemble."""
    from gac_core.tokens.vocabulary import TokenKind

    table = Table("tokenizer", "text", "control", "end", "twins", "can join", box=None)
    for name, tokenizer in tokenizers.items():
        vocabulary = tokenizer.vocabulary
        counts = (
            len(vocabulary.text_ids),
            vocabulary.kinds.count(TokenKind.CONTROL),
            len(vocabulary.end_ids),
            len(vocabulary.text_ids) - len(vocabulary.ids_by_bytes),
        )
        joins = "no" if refusals[name] else "yes"
        table.add_row(Text(name), *(f"{n:,}" for n in counts), joins)
    return table


def _pairs_table(tokenizers: Mapping[str, "ByteTokenizer"], common_words: Sequence[str]) -> Table:
    """A line per pair of tokenizers: how much of their vocabularies is common."""
    from gac_core.tokens.overlap import overlap

    table = Table("pair", "union", "common", "A in B", "B in A", "words alike", box=None)
    for a, b in combinations(tokenizers, 2):
        found = overlap(tokenizers[a], tokenizers[b], common_words)
        table.add_row(
            Text(f"{a} - {b}"),
            f"{found.union:,}",
            f"{found.common:,}",
            f"{found.a_in_b:.1%}",
            f"{found.b_in_a:.1%}",
            "-" if found.words_alike is None else f"{found.words_alike:.2%}",
        )
    return table
