"""Small tokenizers of every common family, and tiny models for them, made on the spot.

Tokenizers are trained on a few sentences and models are random, so an ensemble of them is built in
a fraction of a second, needs no file, and its members disagree about everything.
"""

import atexit
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from gac_core.ensemble import Ensemble
from gac_core.methods.co_llm import GateHead

# The sentences on which tokenizers are trained: several scripts, code, blanks, half words.
CORPUS = [
    "Hello world, how are you today? I am fine, thank you. Hello Hello!",
    "The capital of France is Paris; the capital of Germany is Berlin.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(12, 345))\t# 357",
    "Der Bäcker grüßt: schönes Wetter, ¿qué tal? C'est déjà l'été à Besançon.",
    "Привет, мир! Как дела? 你好，世界。 こんにちは 🙂🙂👍🏽",
    "  two  spaces   and\n\n new lines\r\n. . . ... !!! don't can't I'll",
] * 3

# Chat templates, in Jinja.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama-2's: no system role, strict turns, answers written with a space before them.
INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
HEADER = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
# The regular expression by which the tokenizer of GPT-4 splits a text into words.
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Byte-level BPE as of GPT-2, Qwen, Llama 3 and GPT-NeoX (byte_level, chatml, tiktoken, neox), and
# SentencePiece as BPE (legacy as of Llama 2, metaspace) and as Unigram.
FAMILIES = ("byte_level", "chatml", "legacy", "metaspace", "tiktoken", "unigram", "neox")
# Tokenizers that lack bytes: six control characters as SmolLM2's, and Unigram without byte
# fallback, which knows printable ASCII and the characters of `CORPUS`.
LACKING = ("sparse", "characters")
_SPARSE_BYTES = (0x04, 0x06, 0x13, 0x14, 0x16, 0x1D)


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one of the `FAMILIES` or `LACKING`, trained on `CORPUS`."""
    controls, template, size = {
        "byte_level": (["<|endoftext|>"], None, 330),
        "chatml": (["<|im_end|>", "<|im_start|>", "<|endoftext|>"], CHATML, 420),
        "legacy": (["</s>", "<s>", "<unk>"], INST, 180),
        "metaspace": (["</s>", "<s>", "<unk>"], None, 240),
        "tiktoken": (["<|end|>", "<|begin|>", "<|eot|>", "<|head|>", "<|/head|>"], HEADER, 380),
        "unigram": (["</s>", "<s>", "<unk>"], None, 200),
        "neox": (["<|endoftext|>", "<|padding|>"], None, 350),
        "sparse": (["<|im_end|>", "<|im_start|>"], CHATML, 400),
        "characters": (["</s>", "<s>", "<unk>"], None, 300),
    }[family]
    backend, trainer = _untrained(family, controls, size)
    if trainer is not None:
        backend.train_from_iterator(CORPUS, trainer)
    if family in ("legacy", "metaspace", "unigram"):
        backend = _with_byte_tokens(backend, len(controls))
    if family == "sparse":
        backend = _without_bytes(backend)
    if family == "neox":
        backend.add_tokens([AddedToken(" " * n, normalized=False) for n in (6, 5, 4, 3, 2)])
        backend.add_tokens([AddedToken("<tool_call>", normalized=False)])
    bos = next((c for c in controls if c in ("<s>", "<|begin|>")), None)
    if bos == "<s>":
        bos_id = backend.token_to_id(bos)
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, bos_id)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=controls[0],
        bos_token=bos,
        unk_token="<unk>" if "<unk>" in controls else None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def _untrained(family: str, controls: list[str], size: int) -> tuple[Tokenizer, Any]:
    """A tokenizer and its trainer; None where there is nothing to train."""
    special = [AddedToken(c, special=True, normalized=False) for c in controls]
    options: dict[str, Any] = {"vocab_size": size, "special_tokens": special}
    options["show_progress"] = False
    if family in ("byte_level", "chatml", "tiktoken", "neox", "sparse"):
        backend = Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if family == "tiktoken":
            split = pre_tokenizers.Split(Regex(GPT4_SPLIT), "isolated")
            raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([split, raw])
        elif family == "chatml":
            digits = pre_tokenizers.Digits(individual_digits=True)
            backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        else:
            backend.pre_tokenizer = byte_level
        if family in ("chatml", "neox"):
            backend.normalizer = normalizers.NFC()
        backend.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        return backend, trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    if family in ("unigram", "characters"):
        has_bytes = family == "unigram"
        pieces = [(c, 0.0) for c in controls] + _frequent_pieces(size - len(controls))
        if not has_bytes:
            known = {piece for piece, _ in pieces}
            pieces += [(c, -20.0) for c in map(chr, range(0x21, 0x7F)) if c not in known]
        backend = Tokenizer(models.Unigram(pieces, controls.index("<unk>"), has_bytes))
        backend.add_special_tokens(special)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")]
        )
        return backend, None
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if family == "legacy":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend, trainers.BpeTrainer(**options)


def _frequent_pieces(count: int) -> list[tuple[str, float]]:
    """All characters and the most frequent parts of the words of `CORPUS`, with their scores.

    The trainer of Unigram models gives others in every process.
    """
    words = [f"▁{word}" for text in CORPUS for word in text.split(" ")]
    found = Counter(
        word[start:end]
        for word in words
        for start in range(len(word))
        for end in range(start + 1, min(start + 8, len(word)) + 1)
    )
    # Characters first; then what saves the most tokens.
    ranked = sorted(found, key=lambda piece: (len(piece) > 1, -found[piece] * len(piece), piece))
    kept = ranked[:count]
    total = sum(found[piece] for piece in kept)
    return [(piece, math.log(found[piece] / total)) for piece in kept]


def _without_bytes(backend: Tokenizer) -> Tokenizer:
    """A byte-level tokenizer that has words in the place of some bytes."""
    spec = json.loads(backend.to_str())
    vocabulary = spec["model"]["vocab"]
    for byte in _SPARSE_BYTES:
        vocabulary[f"qzx{byte}"] = vocabulary.pop(chr(0x100 + byte))  # the letter for the byte
    return Tokenizer.from_str(json.dumps(spec))


def _with_byte_tokens(backend: Tokenizer, controls: int) -> Tokenizer:
    spec = json.loads(backend.to_str())
    vocabulary = spec["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces and scores, by id
        scores = [[f"<0x{b:02X}>", -20.0] for b in range(256)]
        spec["model"]["vocab"] = [*vocabulary[:controls], *scores, *vocabulary[controls:]]
        spec["model"]["byte_fallback"] = True
        return Tokenizer.from_str(json.dumps(spec))
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    pieces = [*by_id[:controls], *(f"<0x{b:02X}>" for b in range(256)), *by_id[controls:]]
    spec["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(spec))


@cache
def tiny_model(
    family: str, seed: int = 0, *, context: int = 512, spread: float = 0.25
) -> LlamaForCausalLM:
    """A random model for the tokenizer of a family; its logits have three rows of padding.

    Args:
        family: one of `FAMILIES`.
        seed: of its weights.
        context: the number of positions it can read.
        spread: the standard deviation of its weights; larger values give peaked distributions.

    """
    tokenizer = tokenizer_of(family)
    ends = [tokenizer.eos_token_id]
    return random_llama(tokenizer, len(tokenizer) + 3, ends, seed, context=context, spread=spread)


def random_llama(
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    end_ids: list[int],
    seed: int = 0,
    *,
    context: int = 512,
    spread: float = 0.25,
) -> LlamaForCausalLM:
    """A random float64 Llama of 32 dimensions and 2 layers, for any tokenizer."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_ids,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=spread)
    return model


@cache
def random_gate(hidden_size: int = 32) -> str:
    """The file of a gate of method co_llm that defers at about half of a tiny model's steps."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "gate.safetensors"
    generator = torch.Generator().manual_seed(0)
    GateHead(torch.randn(hidden_size, generator=generator), torch.zeros(1)).save(path)
    return str(path)


def pair(family: str, seed: int = 0, **options: Any) -> tuple[PreTrainedModel, Any]:
    """A tiny model and its tokenizer; options of `tiny_model`."""
    return tiny_model(family, seed, **options), tokenizer_of(family)


def make_ensemble(
    families: Sequence[str],
    seeds: Sequence[int] | None = None,
    *,
    pair: Callable[[str, int], tuple[Any, Any]] = pair,
    **options: Any,
) -> Ensemble:
    """An ensemble of tiny models.

    Args:
        families: one of `FAMILIES` per member.
        seeds: of their weights; 0, 1, ... by default.
        pair: makes the model and tokenizer of a family and a seed.
        options: of `Ensemble.from_models`.

    Example:
        >>> from gac_core.testing import make_ensemble
        >>> with make_ensemble(["chatml", "legacy"], method="cascade", threshold=0.4) as ensemble:
        ...     output = ensemble.generate("Hello", max_new_tokens=5)
        >>> len(output.steps), [usage.name for usage in output.usage.members]
        (5, ['chatml-0', 'legacy-1'])

    """
    seeds = range(len(families)) if seeds is None else seeds
    pairs = [pair(family, seed) for family, seed in zip(families, seeds, strict=True)]
    names = [f"{family}-{seed}" for family, seed in zip(families, seeds, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}-{index}" for index, name in enumerate(names)]
    return Ensemble.from_models(pairs, names=names, **options)


class ScriptedConfig(PretrainedConfig):
    """The configuration of a `ScriptedModel`."""

    model_type = "scripted"

    def __init__(self, vocab_size: int = 1, context: int = 512, **options: Any) -> None:
        self.vocab_size = vocab_size
        self.max_position_embeddings = context
        super().__init__(**options)


class ScriptedModel(PreTrainedModel):
    """A model whose next-token logits depend on the position alone.

    Attributes:
        script: the logits after some positions, (vocab_size,) each; after all others they are 0.
        calls: the shape of the ids of every forward pass.

    """

    config_class = ScriptedConfig
    _supports_sdpa = True

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, 1)
        self.head = torch.nn.Identity()  # its hidden states are its logits
        self.script: dict[int, torch.Tensor] = {}
        self.calls: list[tuple[int, ...]] = []
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> torch.nn.Module:
        """The layer that takes the ids."""
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        """The last layer, which gives the logits back as they are."""
        return self.head

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,  # noqa: ARG002
        past_key_values: Any = None,  # noqa: ARG002
        use_cache: bool = False,  # noqa: ARG002
    ) -> CausalLMOutputWithPast:
        """The script's logits at each position."""
        self.calls.append(tuple(input_ids.shape))
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        nothing = torch.zeros(self.config.vocab_size)
        logits = torch.stack(
            [
                torch.stack([self.script.get(p, nothing) for p in positions])
                for positions in position_ids.tolist()
            ]
        )
        return CausalLMOutputWithPast(logits=self.head(logits))


def scripted(
    family: str, prompt_length: int, choices: list[dict[str, float]], *, context: int = 512
) -> tuple[ScriptedModel, PreTrainedTokenizerFast]:
    """A model that gives the given probabilities at each step, and its tokenizer.

    Args:
        family: of its tokenizer.
        prompt_length: the number of ids of the prompt.
        choices: at each step the probability of some tokens, as strings of the vocabulary.
        context: the number of positions it can read.

    Example:
        >>> from gac_core import Ensemble
        >>> from gac_core.testing import scripted, tokenizer_of
        >>> length = len(tokenizer_of("byte_level")("Hello").input_ids)
        >>> end = tokenizer_of("byte_level").eos_token
        >>> one = scripted("byte_level", length, [{"a": 0.6, "b": 0.4}, {end: 1.0}])
        >>> other = scripted("byte_level", length, [{"a": 0.1, "b": 0.9}, {end: 1.0}])
        >>> with Ensemble.from_models([one, other], names=["one", "other"]) as ensemble:
        ...     output = ensemble.generate("Hello")
        >>> output.text, round(output.steps[0].logprob, 3)  # (0.4 + 0.9) / 2
        ('b', -0.431)

    """
    tokenizer = tokenizer_of(family)
    model = ScriptedModel(ScriptedConfig(len(tokenizer), context, eos_token_id=None))
    for n, probs in enumerate(choices):
        logits = torch.full((len(tokenizer),), -30.0)
        for piece, prob in probs.items():
            logits[tokenizer.convert_tokens_to_ids(piece)] = torch.tensor(prob).log()
        model.script[prompt_length - 1 + n] = logits
    return model, tokenizer
