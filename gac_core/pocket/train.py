"""Train the pocket members: ``python -m gac_core.pocket.train [ada bo cy]``.

One member takes 45 to 50 minutes of one CPU core. Each has its own tokenizer family, chat
template and strongest subjects, so that the three know different things. Nothing is read but
`tasks.py`; the same command gives the same data in the same order. A run that was stopped goes on
from its last checkpoint in the output folder.

What made the members good, measured on earlier runs: loss on answers only, END included; a few
percent of the answers' tokens split into pieces the member would not write itself, since in an
ensemble it will meet the pieces of others; Muon on the block matrices; a linear decay over the
last quarter.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gac_core.pocket import tasks
from gac_core.prompt import render_prompt

CONTEXT = 2048
IGNORED = -100


# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe:
    """What makes one member different from the others."""

    family: str
    vocabulary_size: int
    controls: tuple[str, ...]  # the first is the end of a turn
    template: str
    dose: dict[str, float]  # share of training items per task
    seed: int
    bos: str | None = None
    steps: int = 3000
    layers: int = 4
    hidden: int = 160
    batch_slots: int = 4096
    buckets: tuple[int, ...] = field(default=(64, 96, 128, 192))


_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
)
_PLAIN = (
    "{% for m in messages %}{{ m.role | capitalize }}:\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)

RECIPES = {
    "ada": Recipe(
        family="byte-level",
        vocabulary_size=800,
        controls=("<|im_end|>", "<|im_start|>"),
        template=_CHATML,
        dose=dict(
            retrieval=2, arithmetic=5, word_problem=4, tool_call=1, final_sentence=1, small_talk=0.2
        ),
        seed=1,
    ),
    "bo": Recipe(
        family="metaspace",
        vocabulary_size=700,
        controls=("</s>", "<s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        template=_INST,
        dose=dict(
            retrieval=6, arithmetic=1, word_problem=1, tool_call=2, final_sentence=2, small_talk=0.2
        ),
        seed=2,
        bos="<s>",
    ),
    "cy": Recipe(
        family="byte-level-words",
        vocabulary_size=600,
        controls=("<|end|>",),
        template=_PLAIN,
        dose=dict(
            retrieval=4, arithmetic=1, word_problem=2, tool_call=3, final_sentence=2, small_talk=0.2
        ),
        seed=3,
    ),
}


# ---------------------------------------------------------------- data


def item_stream(recipe: Recipe, rng: random.Random) -> Iterator[tasks.Item]:
    """Training items without end, in the member's own dose."""
    names, weights = list(recipe.dose), list(recipe.dose.values())
    while True:
        yield tasks.draw(rng.choices(names, weights)[0], rng)


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A tokenizer of the recipe's family, trained on what the members read and write."""
    rng = random.Random(f"tokenizer {recipe.seed}")
    items = item_stream(recipe, rng)
    roles = "system\nuser\nassistant\ntool\nSystem:\nUser:\nAssistant:\nTool:\n"
    texts = [
        "\n".join([roles, *(m["content"] for m in item.messages), item.answer])
        for item in (next(items) for _ in range(4000))
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
        "byte-level": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+",
        # Spaces stand alone, so a name has the same tokens wherever it is.
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
    """The same tokenizer with the 256 byte-fallback tokens behind its control tokens."""
    spec = json.loads(backend.to_str())
    controls = len(spec["added_tokens"])
    by_id = sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].__getitem__)
    pieces = [*by_id[:controls], *(f"<0x{b:02X}>" for b in range(256)), *by_id[controls:]]
    spec["model"]["vocab"] = {piece: token_id for token_id, piece in enumerate(pieces)}
    return Tokenizer.from_str(json.dumps(spec))


@dataclass(frozen=True)
class Example:
    ids: list[int]
    targets: list[int]  # IGNORED where no loss is taken


class Encoder:
    """Items to token ids and targets, a few answer tokens split as others might write them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split_share: float = 0.06) -> None:
        self.tokenizer = tokenizer
        self.split_share = split_share
        self.end_id = int(tokenizer.eos_token_id)
        self.splits = _two_piece_splits(tokenizer)

    def __call__(self, item: tasks.Item, rng: random.Random) -> Example:
        """The item as the member reads and should write it."""
        prompt = render_prompt(self.tokenizer, item.messages)
        whole = render_prompt(
            self.tokenizer,
            [*item.messages, {"role": "assistant", "content": item.answer}],
            add_generation_prompt=False,
        )
        if whole[: len(prompt)] != prompt:
            raise ValueError("the template does not end a prompt where an answer begins")
        answer = whole[len(prompt) :]
        answer = answer[: answer.index(self.end_id) + 1]
        ids, targets = list(prompt), [IGNORED] * len(prompt)
        for token in answer:
            pieces = self.splits.get(token)
            if pieces and rng.random() < self.split_share:
                ids.extend(pieces_chosen := rng.choice(pieces))
                targets.extend((IGNORED, pieces_chosen[1]))
            else:
                ids.append(token)
                targets.append(token)
        return Example(ids, targets)


def _two_piece_splits(tokenizer: PreTrainedTokenizerFast) -> dict[int, list[tuple[int, int]]]:
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    return {
        token_id: pairs
        for piece, token_id in vocabulary.items()
        if piece not in special
        and (
            pairs := [
                (vocabulary[piece[:cut]], vocabulary[piece[cut:]])
                for cut in range(1, len(piece))
                if piece[:cut] in vocabulary and piece[cut:] in vocabulary
            ]
        )
    }


def batches(
    recipe: Recipe, encoder: Encoder, seed: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded batches of about `batch_slots` slots, each of one length bucket."""
    rng = random.Random(seed)
    waiting: dict[int, list[Example]] = {length: [] for length in recipe.buckets}
    for item in item_stream(recipe, rng):
        example = encoder(item, rng)
        length = next((b for b in recipe.buckets if len(example.ids) - 1 <= b), None)
        if length is None:
            continue
        rows = waiting[length]
        rows.append(example)
        if len(rows) == recipe.batch_slots // length:
            yield _padded(rows, length, encoder.end_id)
            rows.clear()


def _padded(rows: list[Example], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORED)
    for row, example in enumerate(rows):
        count = len(example.ids) - 1
        ids[row, :count] = torch.tensor(example.ids[:-1])
        targets[row, :count] = torch.tensor(example.targets[1:])
    return ids, targets  # (rows, length) each


# ---------------------------------------------------------------- training


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=3 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.hidden // 32,
            num_key_value_heads=recipe.hidden // 32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )


def learning_rate_scale(step: int, steps: int, warm_up: int = 60) -> float:
    """Linear warm-up, constant, then linear to zero over the last quarter."""
    return min(1.0, (step + 1) / warm_up, max(0.0, (steps - step) / (0.25 * steps)))


def train(name: str, out: Path, steps: int | None = None, *, compiled: bool = True) -> None:
    """Train one member and save it as a model folder under `out/name`."""
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    torch.set_num_threads(1)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    matrices = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    first = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = int(state["step"])

    loss_of = torch.compile(_loss, dynamic=False) if compiled else _loss
    stream = batches(recipe, Encoder(tokenizer), f"train {recipe.seed}")
    for _ in range(first):
        next(stream)
    began, tokens, mean = time.process_time(), 0, math.nan
    for step in range(first, steps):
        ids, targets = next(stream)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_scale(step, steps)
        loss = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.process_time() - began
            print(f"{name} step {step + 1}/{steps} loss {mean:.4f} {seconds:.0f} CPU s", flush=True)
        if (step + 1) % 500 == 0:
            torch.save(
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                },
                checkpoint,
            )
    save(model, tokenizer, folder)
    checkpoint.unlink(missing_ok=True)
    report = {
        "steps": steps,
        "slots": tokens,
        "final_loss": round(mean, 4),
        "cpu_seconds": round(time.process_time() - began),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits  # (rows, length, vocabulary)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the member as half-precision safetensors with its tokenizer and template."""
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the pocket members.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "members")
    parser.add_argument("--steps", type=int, help="instead of the recipe's own number")
    options = parser.parse_args()
    for name in options.names:
        train(name, options.out, options.steps)


if __name__ == "__main__":
    main()
