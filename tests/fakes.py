"""Tiny models, of our families and for the real tokenizers."""

import json
import os
import time
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gac_core import Ensemble
from gac_core.members.base import Member
from gac_core.members.local import LocalScorer
from gac_core.pocket import folder
from gac_core.testing import assert_nothing_held, models
from gac_core.testing.models import (
    CHATML,
    CORPUS,
    FAMILIES,
    LACKING,
    ScriptedConfig,
    ScriptedModel,
    random_gate,
    random_llama,
    scripted,
    tiny_model,
    tokenizer_of,
)
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import Vocabulary

__all__ = [
    "CHATML",
    "CORPUS",
    "FAMILIES",
    "LACKING",
    "ScriptedConfig",
    "ScriptedModel",
    "random_gate",
    "scripted",
    "tiny_model",
    "tokenizer_of",
]

REAL_FOLDER = Path(
    os.environ.get("GAC_TOKENIZERS", Path(__file__).parents[2] / "shared/tokenizers")
)
REAL = ("gpt2", "gpt_neox", "llama2", "llama3", "mistral_v3", "phi3", "qwen2_5", "starcoder2")


_real_tokenizers: list[PreTrainedTokenizerBase] = []


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(REAL_FOLDER / name)
    _real_tokenizers.append(tokenizer)
    return tokenizer


def is_real(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is one that `real_tokenizer` gave; no test changes these."""
    return any(tokenizer is known for known in _real_tokenizers)


@cache
def packed_tokenizer(name: str) -> Any:
    """The tokenizer of a pocket member, which is the one that its recipe trains."""
    return AutoTokenizer.from_pretrained(folder(name))


@cache
def real_source(name: str) -> dict[str, Any]:
    return dict(json.loads((REAL_FOLDER / name / "SOURCE.json").read_text()))


@lru_cache(maxsize=6)  # each takes up to 80 MB
def real_pair(name: str, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """A random model for a real tokenizer."""
    tokenizer, source = real_tokenizer(name), real_source(name)
    model = random_llama(tokenizer, source["model_vocab_size"], source["eos_ids"], seed)
    return model, tokenizer


@cache
def byte_tokenizer_of(name: str) -> ByteTokenizer:
    """How a member of one of our families writes, or one with a real tokenizer."""
    is_ours = name in FAMILIES + LACKING
    tokenizer: Any = tokenizer_of(name) if is_ours else real_tokenizer(name)
    rows = None if is_ours else real_source(name)["model_vocab_size"]
    return ByteTokenizer(tokenizer, Vocabulary.of(tokenizer, vocab_size=rows))


def pair(family: str, seed: int = 0, **options: Any) -> tuple[PreTrainedModel, Any]:
    """A tiny model and its tokenizer, of our families or for a real tokenizer."""
    return (
        models.pair(family, seed, **options)
        if family in FAMILIES + LACKING
        else real_pair(family, seed)
    )


def make(families: Any, seeds: Any = None, **options: Any) -> Ensemble:
    """`make_ensemble`, for real tokenizers too."""
    return models.make_ensemble(families, seeds, pair=pair, **options)


def model_of(member: Member) -> PreTrainedModel:
    """The transformers model of a member."""
    assert isinstance(member.scorer, LocalScorer)
    return member.scorer.model


def two_scripts(
    first: list[dict[str, float]], second: list[dict[str, float]], **options: Any
) -> Ensemble:
    """Two scripted members that read the raw prompt "Hello" as one token."""
    a = scripted("byte_level", 1, first)
    b = scripted("chatml", 1, second)
    assert a[1].tokenize("Hello") == b[1].tokenize("Hello") == ["Hello"]
    return Ensemble.from_models([a, b], names=["a", "b"], **options)


def by_heart(context: int = 8192) -> Ensemble:
    """One member that writes what `recite` tells it."""
    tokenizer = tokenizer_of("chatml")
    config = ScriptedConfig(len(tokenizer), context, eos_token_id=tokenizer.eos_token_id)
    return Ensemble.from_models([(ScriptedModel(config), tokenizer)])


def recite(ensemble: Ensemble, prompt: Any, reply: str) -> None:
    """Let the only member write a reply after this prompt."""
    (ids,) = ensemble.prompt_ids(prompt)
    (member,) = ensemble.members
    model = model_of(member)
    assert isinstance(model, ScriptedModel)
    end = min(member.tokenizer.vocabulary.end_ids)
    for place, token in enumerate([*member.tokenizer.encode_prompt(reply), end]):
        logits = torch.full((member.scorer.vocab_size,), -30.0)
        logits[token] = 0.0
        model.script[len(ids) - 1 + place] = logits


def forwards_of(ensemble: Ensemble) -> int:
    """How many passes its members have made so far."""
    return sum(member.scorer.stats.forwards for member in ensemble.members)


def assert_rests(ensemble: Ensemble) -> None:
    """Nothing is computed any more and no memory is held."""
    assert_nothing_held(ensemble)
    before = forwards_of(ensemble)
    time.sleep(0.1)
    assert forwards_of(ensemble) == before
