"""Train the pocket members: ``python -m gac_core.pocket.train [ada bo cy]``.

One member takes an hour and a half of one CPU core. Each has its own tokenizer family, chat
template and strongest subjects, so that the three know different things. Nothing is read but
`tasks.py`; the same command gives the same data in the same order. A run that was stopped goes on
from its last checkpoint in the output folder.

What made the members good, measured on earlier runs: loss on answers only, END included; a few
percent of the answers' tokens split into pieces the member would not write itself, since in an
ensemble it will meet the pieces of others; Muon on the block matrices; a linear decay over the
last fifth. `docs/pocket.md` tells more.
"""

import argparse
import json
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gac_core.chat.prompt import system_in_user_turn
from gac_core.pocket import tasks
from gac_core.pocket.words import Source

CONTEXT = 2304
IGNORED = -100
_MARK = "\ue000"  # in no text


# ---------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Phase:
    """A part of the training, from one step on."""

    start: int
    made_up: float = 0.0  # the share of words that are on no list
    spliced: float = 0.0  # the share of these that are made of parts of listed words
    later_dose: bool = False
    more_forms: bool = False  # of tool questions and names, more tools, and reports


PHASES = (
    Phase(0),
    Phase(1500, made_up=0.5),
    Phase(3000, 0.6, spliced=0.6, later_dose=True),
    Phase(7000, 0.6, spliced=0.6, later_dose=True, more_forms=True),
)


@dataclass(frozen=True)
class Recipe:
    """What makes one member different from the others."""

    family: str
    vocabulary_size: int
    controls: tuple[str, ...]  # the first is the end of a turn
    template: str
    dose: dict[str, float]  # how often a conversation takes up each task, at first
    later_dose: dict[str, float]
    seed: int
    bos: str | None = None
    steps: int = 9000
    layers: int = 4
    hidden: int = 160
    batch_slots: int = 4608
    # Length of a conversation in slots: its share of the slots, and how many facts it holds.
    buckets: dict[int, tuple[float, tuple[int, int]]] = field(
        default_factory=lambda: {256: (0.5, (2, 6)), 640: (0.4, (3, 12)), 2304: (0.1, (10, 50))}
    )


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
        vocabulary_size=1000,
        controls=("<|im_end|>", "<|im_start|>"),
        template=_CHATML,
        dose=dict(
            retrieval=3,
            arithmetic=8,
            word_problem=4,
            tool_use=2,
            extraction=1.5,
            condense=0.1,
            small_talk=0.1,
        ),
        later_dose=dict(
            retrieval=4,
            arithmetic=5,
            word_problem=3,
            tool_use=3,
            extraction=2.5,
            condense=0.2,
            small_talk=0.4,
        ),
        seed=1,
    ),
    "bo": Recipe(
        family="metaspace",
        vocabulary_size=800,
        controls=("</s>", "<s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        template=_INST,
        dose=dict(
            retrieval=6,
            arithmetic=1,
            word_problem=0.5,
            tool_use=2.5,
            extraction=3,
            condense=0.2,
            small_talk=0.1,
        ),
        later_dose=dict(
            retrieval=5,
            arithmetic=2.5,
            word_problem=1.5,
            tool_use=3,
            extraction=3.5,
            condense=0.2,
            small_talk=0.4,
        ),
        seed=2,
        bos="<s>",
    ),
    "cy": Recipe(
        family="byte-level-words",
        vocabulary_size=700,
        controls=("<|end|>",),
        template=_PLAIN,
        dose=dict(
            retrieval=5,
            arithmetic=1,
            word_problem=2,
            tool_use=3,
            extraction=2,
            condense=0.2,
            small_talk=0.1,
        ),
        later_dose=dict(
            retrieval=5,
            arithmetic=2.5,
            word_problem=2,
            tool_use=3.5,
            extraction=2,
            condense=0.2,
            small_talk=0.4,
        ),
        seed=3,
    ),
}


# ---------------------------------------------------------------- data


Message = tasks.Message


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer; what the assistant says in them is learned."""

    messages: list[Message]
    answers: list[str]


def conversation(
    recipe: Recipe, length: int, rng: random.Random, phase: Phase = PHASES[0]
) -> Conversation:
    """Exchanges in the member's own dose, one after another, to about `length` tokens or more.

    Many answers to one context teach more per token than one, and many turns are what a chat is.
    """
    source = Source(rng, "train", phase.made_up, phase.spliced, phase.more_forms)
    dose = recipe.later_dose if phase.later_dose else recipe.dose
    if phase.more_forms:
        dose = {**dose, "tool_use": dose["tool_use"] + 2, "report": 1.5}
    names, weights = list(dose), list(dose.values())
    facts = recipe.buckets[length][1]
    messages: list[Message] = []
    answers: list[str] = []
    characters = 0
    while characters < 4 * length:
        task = rng.choices(names, weights)[0]
        count = rng.randint(*facts)
        turns = 1 if rng.random() < 0.2 else rng.randint(1, count)
        exchange = tasks.MAKERS[task](source, turns, count)
        if messages and exchange.opening:
            continue  # what a system message opens is at the beginning or nowhere
        messages += exchange.opening
        for turn in exchange.turns:
            messages += [turn.asked, {"role": "assistant", "content": turn.answer}]
            answers.append(turn.answer)
        characters = sum(len(m["content"]) + 12 for m in messages)
    return Conversation(messages, answers)


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
    """Conversations to token ids and targets, a few answer tokens split as others write them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, split_share: float = 0.06) -> None:
        self.tokenizer = tokenizer
        self.split_share = split_share
        self.end_id = int(tokenizer.eos_token_id)
        self.splits = _two_piece_splits(tokenizer)
        tokenizer.model_max_length = 10**9  # what is too long is cut here; no need to warn

    def __call__(self, said: Conversation, rng: random.Random, limit: int) -> Example | None:
        """What fits into `limit` + 1 tokens, up to the end of an answer; None if none does."""
        text, answers = self._rendered(said)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = iter(answers)
        ids: list[int] = []
        targets: list[int] = []
        complete = 0
        first, last = next(spans)
        for token, (start, end) in zip(
            encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            learned = first <= start and end <= last
            if start < first < end or start < last < end:
                raise ValueError(f"a token of {text!r} crosses the border of an answer")
            pieces = self.splits.get(token) if learned else None
            if pieces and rng.random() < self.split_share:
                ids.extend(chosen := rng.choice(pieces))
                targets.extend((IGNORED, chosen[1]))
            else:
                ids.append(token)
                targets.append(token if learned else IGNORED)
            if len(ids) > limit + 1:
                break
            if learned and end == last:
                complete = len(ids)
                first, last = next(spans, (len(text) + 1, len(text) + 1))
        return Example(ids[:complete], targets[:complete]) if complete else None

    def _rendered(self, said: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where each answer begins and the END behind it ends.

        A context may say the same as an answer, so the places are found with marks instead.
        """
        marked = [{**m, "content": _MARK} if m["role"] == "assistant" else m for m in said.messages]
        try:
            first, *others = self._template(marked).split(_MARK)
        except TemplateError:
            first, *others = self._template(system_in_user_turn(marked)).split(_MARK)
        text, spans = first, []
        for answer, behind in zip(said.answers, others, strict=True):
            start = len(text)
            spans.append((start, start + len(answer) + len(str(self.tokenizer.eos_token))))
            text += answer + behind
        return text, spans

    def _template(self, messages: list[Message]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False))


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


def batch(recipe: Recipe, encoder: Encoder, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """About `batch_slots` slots of conversations of one length; the same ones for the same step."""
    rng = random.Random(f"train {recipe.seed} {step}")
    phase = next(phase for phase in reversed(PHASES) if phase.start <= step)
    shares = [share for share, _ in recipe.buckets.values()]
    length = rng.choices(list(recipe.buckets), shares)[0]
    rows: list[Example] = []
    while len(rows) < recipe.batch_slots // length:
        example = encoder(conversation(recipe, length, rng, phase), rng, length)
        if example is not None:
            rows.append(example)
    return _padded(rows, length, encoder.end_id)


def _padded(rows: list[Example], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), IGNORED)
    for row, example in enumerate(rows):
        count = len(example.ids) - 1
        ids[row, :count] = torch.tensor(example.ids[:-1])
        targets[row, :count] = torch.tensor(example.targets[1:])
    return ids, targets  # (rows, length) each


# ---------------------------------------------------------------- training


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(recipe.seed)
    AttentionInterface.register("float32_causal", float32_causal)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=3 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.hidden // 32,
            num_key_value_heads=recipe.hidden // 32,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,
        )
    )
    model.set_attn_implementation("float32_causal")
    return model


def float32_causal(
    module: Any,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    scaling: float | None = None,
    **kwargs: Any,  # noqa: ARG001
) -> tuple[torch.Tensor, None]:
    """Causal attention in float32, which CPUs do faster than in bfloat16. (rows, heads, ...)"""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling
        )
    return out.transpose(1, 2).contiguous(), None


def learning_rate_scale(step: int, steps: int, warm_up: int = 60) -> float:
    """Linear warm-up, constant, then linearly down over the last fifth, to about a quarter.

    Down to zero each member gains a few points and their ensemble none: they agree more.
    """
    zero = steps * 15 / 14
    return min(1.0, (step + 1) / warm_up, (zero - step) / (0.25 * zero))


def train(name: str, out: Path, steps: int | None = None, *, compiled: bool = True) -> None:
    """Train one member and save it as a model folder under `out/name`."""
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    torch.set_num_threads(1)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(recipe)
        tokenizer.save_pretrained(folder)
    model = new_model(recipe, tokenizer)
    matrices = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    first, tokens, spent = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, tokens, spent = int(state["step"]), int(state["slots"]), float(state["seconds"])

    body = torch.compile(model.model, dynamic=False) if compiled else model.model
    encoder = Encoder(tokenizer)
    began, mean = time.process_time() - spent, math.nan
    for step in range(first, steps):
        ids, targets = batch(recipe, encoder, step)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_scale(step, steps)
        loss = answer_loss(model, body, ids, targets)
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
            state = {
                "step": step + 1,
                "slots": tokens,
                "seconds": time.process_time() - began,
                "model": model.state_dict(),
                "optimizers": [o.state_dict() for o in optimizers],
            }
            torch.save(state, checkpoint)
    save(model, tokenizer, folder)
    checkpoint.unlink(missing_ok=True)
    report = {
        "steps": steps,
        "slots": tokens,
        "final_loss": round(mean, 4),
        "cpu_seconds": round(time.process_time() - began),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def answer_loss(
    model: Qwen3ForCausalLM, body: Any, ids: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy where there is a target; the head is not computed elsewhere."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = body(input_ids=ids, use_cache=False).last_hidden_state  # (rows, length, hidden)
    learned = targets != IGNORED
    return F.cross_entropy(model.lm_head(hidden[learned].float()), targets[learned])


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the member as half-precision safetensors with its tokenizer and template."""
    model.set_attn_implementation("sdpa")
    tokenizer.model_max_length = CONTEXT
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
