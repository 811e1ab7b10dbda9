"""A tokenizer of each family, trained on what the members read and write."""

import json
import random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gac_core.pocket.training.conversations import conversation
from gac_core.pocket.training.recipes import CONTEXT, Recipe


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer of the recipe's family, trained on what the members read and write."""
    rng = random.Random(f"tokenizer {recipe.seed}")
    roles = "system\nuser\nassistant\ntool\nSystem:\nUser:\nAssistant:\nTool:\n"
    texts = [
        "\n".join([roles, *(m["content"] for m in conversation(recipe, 256, rng).messages)])
        for _ in range(3000)
    ]
    backend, trainer_options = _untrained_backend(recipe.family)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary_size,
        special_tokens=[AddedToken(c, special=True, normalized=False) for c in recipe.controls],
        show_progress=False,
        **trainer_options,
    )
    backend.train_from_iterator(texts, trainer)
    if recipe.family == "metaspace":
        backend = _with_byte_tokens(backend)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=recipe.controls[0],
        bos_token=recipe.bos,
        additional_special_tokens=list(recipe.controls),
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = recipe.template
    return tokenizer


def _untrained_backend(family: str) -> tuple[Tokenizer, dict[str, Any]]:
    if family == "metaspace":
        backend = Tokenizer(models.BPE(byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split("\n", "isolated"),
                pre_tokenizers.Metaspace(prepend_scheme="first", split=True),
                # A name has the same tokens at the beginning of a line and within it.
                pre_tokenizers.Split(Regex(r"▁(?=\p{Lu})"), "isolated"),
                pre_tokenizers.Punctuation("contiguous"),
                pre_tokenizers.Digits(individual_digits=True),
            ]
        )
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        return backend, {}
    split = {
        # The space goes with a word in small letters only, so that a name has the same tokens
        # at the beginning of a line and within it. In the second family it always stands alone.
        "byte-level": r" ?\p{Ll}+|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+",
        "byte-level-words": r"\p{L}+|\p{N}|\s|[^\s\p{L}\p{N}]+",
    }[family]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend, {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}


def _with_byte_tokens(backend: Tokenizer) -> Tokenizer:
    """The same tokenizer with the 256 byte-fallback tokens after its control tokens."""
    spec = json.loads(backend.to_str())
    controls = len(spec["added_tokens"])
    by_id = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    pieces = [*by_id[:controls], *(f"<0x{b:02X}>" for b in range(256)), *by_id[controls:]]
    spec["model"]["vocab"] = {piece: token_id for token_id, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(spec))
