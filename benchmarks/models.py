"""Random-weight models for benchmarks, with real tokenizers where there are some."""

import itertools
import os
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

REAL_TOKENIZERS = Path(
    os.environ.get("GAC_TOKENIZERS", Path(__file__).parents[2] / "shared" / "tokenizers")
)


@dataclass(frozen=True)
class Shape:
    """The size of a member and the vocabularies of a pair."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    rows: tuple[int, int]
    tokenizers: tuple[str, str]


SHAPES = {
    "small": Shape(256, 4, 8, 8, 768, (32000, 32768), ("llama2", "mistral_v3")),
    "large": Shape(896, 24, 14, 2, 4864, (128256, 151936), ("llama3", "qwen2_5")),
}


def are_real(shape: Shape) -> bool:
    """Whether the real tokenizers of a shape are there."""
    return all((REAL_TOKENIZERS / name).is_dir() for name in shape.tokenizers)


def tokenizers_of(shape: Shape) -> list[PreTrainedTokenizerBase]:
    """The real tokenizers of a shape, or made-up ones with as many tokens."""
    if are_real(shape):
        return [AutoTokenizer.from_pretrained(REAL_TOKENIZERS / n) for n in shape.tokenizers]
    return [made_up_tokenizer(rows, seed) for seed, rows in enumerate(shape.rows)]


def made_up_tokenizer(size: int, seed: int) -> PreTrainedTokenizerBase:
    """A byte-level vocabulary of random words; two thirds of them are the same for every seed."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    common, own = random.Random("common"), random.Random(f"own {seed}")
    words: dict[str, None] = {}
    for count in itertools.count():
        if len(words) >= size - len(alphabet) - 1:
            break
        rng = own if count % 3 == 2 else common
        letters = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8)))
        words[rng.choice(("", "Ġ")) + letters] = None
    vocabulary = {piece: i for i, piece in enumerate(["</s>", *alphabet, *words])}
    backend = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def random_model(shape: Shape, rows: int, seed: int) -> LlamaForCausalLM:
    """A model of the shape whose text wanders, as a trained one's does."""
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,  # the tokenizer's
    )
    with no_init_weights():
        model: LlamaForCausalLM = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.05, generator=generator)
            else:
                parameter.fill_(1.0)
    model.generation_config.eos_token_id = None
    model.eval()
    return model
