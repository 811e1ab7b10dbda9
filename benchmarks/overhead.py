"""What the ensemble costs beyond its members' own forward passes.

``python -m benchmarks.overhead [--json] [--sizes small large]``

Every figure is a ratio of two things timed by turns in one run, and the median over the turns, so
that another program on the same machine slows both. `docs/performance.md` says how each is made
and what was found.
"""

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.models import SHAPES, Shape, are_real, random_model, tokenizers_of
from gac_core import Ensemble
from gac_core.members.local import LocalScorer
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import Vocabulary

TEXT = "The quick brown fox jumps over the lazy dog and runs through the old town. "

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Plan:
    """How much is generated how often.

    Attributes:
        text: the prompt.
        steps: of every answer.
        turns: by which the two sides of a ratio are timed.
        tax: steps and turns for the tax of fusing at every step, whose limit is the tightest: many
            short turns, since the machine is noisy.
        shares: of fused steps, at which a cascade is timed.

    """

    text: str
    steps: int
    turns: int
    tax: tuple[int, int]
    shares: tuple[float, ...]


BATCH = 16
PLANS = {
    "small": Plan(4 * TEXT, steps=64, turns=7, tax=(64, 11), shares=(0.05, 0.25, 0.5, 0.75, 0.95)),
    "large": Plan(TEXT, steps=16, turns=3, tax=(8, 15), shares=(0.25, 0.5, 0.75)),
}


def main() -> None:
    """Measure both sizes and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--sizes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 is what can be shared")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = {size: measure(size) for size in options.sizes}
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for size, values in figures.items():
        print(size)
        for name, value in values.items():
            print(f"  {name:28} {value if not isinstance(value, float) else round(value, 3)}")


def measure(size: str) -> dict[str, Any]:
    """All figures of one size."""
    return measured(SHAPES[size], PLANS[size], size)


def measured(shape: Shape, plan: Plan, size: str) -> dict[str, Any]:
    """All figures of a pair of members of this shape."""
    tokenizers = tokenizers_of(shape)
    models = [random_model(shape, rows, seed) for seed, rows in enumerate(shape.rows)]
    pairs: list[Pair] = list(zip(models, tokenizers, strict=True))
    say(f"{size}: union")
    figures: dict[str, Any] = {
        "tokenizers": " + ".join(shape.tokenizers) if are_real(shape) else "made up",
        "union_build_s": union_build_seconds(models, tokenizers),
    }
    say(f"{size}: memory")
    figures["extra_memory_mb"] = extra_memory(pairs, plan)
    say(f"{size}: every step")
    short = replace(plan, steps=plan.tax[0], turns=plan.tax[1])
    figures["every_step_tax"] = every_step_tax(pairs, short)
    figures["every_step_tax_tokens"] = every_step_tax(pairs, short, space="tokens")
    figures["every_step_tax_append"] = every_step_tax(
        pairs, short, space="tokens", history="append"
    )
    say(f"{size}: cascade")
    figures["cascade0_vs_generate"] = cascade0_vs_generate(pairs, plan)
    figures["cascade_vs_every_step"] = cascade_vs_every_step(pairs, plan)
    say(f"{size}: batch")
    figures["batch16_vs_generate"] = batch_vs_generate(pairs, plan)
    return figures


def say(what: str) -> None:
    """Progress, where it does not disturb the figures."""
    print(what, file=sys.stderr, flush=True)


def by_turns(plan: Plan, ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    """The median over turns of our seconds by theirs; both run once before."""
    ratios = []
    for turn in range(plan.turns + 1):
        pair = (ours, theirs) if turn % 2 else (theirs, ours)
        seconds = {}
        for run in pair:
            began = time.perf_counter()
            run()
            seconds[run] = time.perf_counter() - began
        if turn:
            ratios.append(seconds[ours] / seconds[theirs])
    return statistics.median(ratios)


# ---------------------------------------------------------------- set-up


def union_build_seconds(models: list[Any], tokenizers: list[PreTrainedTokenizerBase]) -> float:
    """From loaded tokenizers to the union of their vocabularies, tokenizers and maps included."""
    began = time.perf_counter()
    vocabularies = [
        Vocabulary.of(tokenizer, vocab_size=model.config.vocab_size)
        for model, tokenizer in zip(models, tokenizers, strict=True)
    ]
    for tokenizer, vocabulary in zip(tokenizers, vocabularies, strict=True):
        ByteTokenizer(tokenizer, vocabulary).check()
    UnionVocabulary(vocabularies)
    return time.perf_counter() - began


def extra_memory(pairs: list[Pair], plan: Plan) -> float:
    """Resident MB that an ensemble adds to its loaded models, KV caches left out."""
    for model, tokenizer in pairs:  # so that what torch itself keeps is there before
        generate(model, prompt_ids(tokenizer, plan), plan.steps)
    before = resident_mb()
    with Ensemble.from_models(pairs) as ensemble:
        ensemble.generate(plan.text, max_new_tokens=plan.steps)
        return resident_mb() - before


def resident_mb() -> float:
    """Memory of this process after everything that is unused was given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


# ---------------------------------------------------------------- steps


@dataclass
class Chunk:
    """What one forward pass of a member read: new ids behind so many that were known."""

    start: int
    ids: list[int]


@contextmanager
def recorded(ensemble: Ensemble) -> Iterator[list[list[Chunk]]]:
    """The chunks that each member's forwards read while a single request runs."""
    chunks: list[list[Chunk]] = [[] for _ in ensemble.members]
    plain = LocalScorer.score
    index = {id(member.scorer): m for m, member in enumerate(ensemble.members)}
    held: dict[int, list[int]] = {}

    def score(self: LocalScorer, queries: Any, keys: Any = None) -> Any:
        (query,) = queries
        known, ids = held.get(id(self), []), list(query.ids)
        same = next(
            (i for i, (a, b) in enumerate(zip(known, ids, strict=False)) if a != b),
            min(len(known), len(ids)),
        )
        start = min(same, len(ids) - 1)
        chunks[index[id(self)]].append(Chunk(start, ids[start:]))
        held[id(self)] = ids
        return plain(self, queries, keys)

    LocalScorer.score = score  # type: ignore[method-assign]
    try:
        yield chunks
    finally:
        LocalScorer.score = plain  # type: ignore[method-assign]


def bare_forwards(model: PreTrainedModel, chunks: list[Chunk]) -> None:
    """The same forwards with a plain cache, cut back where the ensemble rewound."""
    cache = DynamicCache(config=model.config)
    length = 0
    with torch.inference_mode():
        for chunk in chunks:
            if chunk.start < length:
                cache.crop(chunk.start - length)
            ids = torch.tensor([chunk.ids])
            model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            length = chunk.start + len(chunk.ids)


def every_step_tax(pairs: list[Pair], plan: Plan, **options: Any) -> float:
    """Time of fusing at every step over that of the members' own forwards."""
    with Ensemble.from_models(pairs, **options) as ensemble:

        def ours() -> None:
            output = ensemble.generate(plan.text, max_new_tokens=plan.steps)
            assert len(output.steps) == plan.steps, "a member ended the text"

        with recorded(ensemble) as chunks:
            ours()

        def theirs() -> None:
            for (model, _), own in zip(pairs, chunks, strict=True):
                bare_forwards(model, own)

        return by_turns(plan, ours, theirs)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> list[int]:
    """The prompt as the ensemble has a member read it."""
    return list(tokenizer(plan.text)["input_ids"])


def generate(model: Any, ids: list[int], steps: int, rows: int = 1) -> None:
    """What transformers does for the same prompt and length."""
    model.generate(
        torch.tensor([ids] * rows),
        attention_mask=torch.ones(rows, len(ids), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=steps,
        min_new_tokens=steps,
        pad_token_id=0,
    )


def cascade0_vs_generate(pairs: list[Pair], plan: Plan) -> float:
    """Tokens per second of a cascade that never fuses, over `generate` of the primary alone."""
    model, tokenizer = pairs[0]
    with Ensemble.from_models(pairs, method="cascade", threshold=0.0) as ensemble:
        return by_turns(
            plan,
            theirs=lambda: ensemble.generate(plan.text, max_new_tokens=plan.steps),
            ours=lambda: generate(model, prompt_ids(tokenizer, plan), plan.steps),
        )


def cascade_vs_every_step(pairs: list[Pair], plan: Plan) -> list[dict[str, float]]:
    """Tokens per second of cascades over every-step's, at several shares of fused steps.

    The thresholds are quantiles of the primary's certainty along the way.
    """
    with Ensemble.from_models(pairs, method="cascade", threshold=0.0) as ensemble:
        output = ensemble.generate(plan.text, max_new_tokens=plan.steps)
        tops = sorted(step.members[0].top_prob for step in output.steps)
    found = []
    with Ensemble.from_models(pairs) as every_step:
        for share in plan.shares:
            threshold = tops[min(len(tops) - 1, int(share * len(tops)))]
            with Ensemble.from_models(pairs, method="cascade", threshold=threshold) as cascade:
                shares: list[float] = []

                def ours(cascade: Ensemble = cascade, shares: list[float] = shares) -> None:
                    usage = cascade.generate(plan.text, max_new_tokens=plan.steps).usage
                    shares.append(usage.fused_steps / usage.steps)

                ratio = by_turns(
                    plan,
                    theirs=ours,
                    ours=lambda: every_step.generate(plan.text, max_new_tokens=plan.steps),
                )
            found.append({"fused_share": round(shares[-1], 3), "speedup": round(ratio, 3)})
    return found


def batch_vs_generate(pairs: list[Pair], plan: Plan) -> float:
    """How much 16 requests at once gain over one, by how much a batch of 16 gains `generate`."""
    ids = [prompt_ids(tokenizer, plan) for _, tokenizer in pairs]
    with Ensemble.from_models(pairs) as ensemble:

        def ours(rows: int) -> None:
            ensemble.batch([plan.text] * rows, max_new_tokens=plan.steps)

        def theirs(rows: int) -> None:
            for (model, _), own in zip(pairs, ids, strict=True):
                generate(model, own, plan.steps, rows)

        ratios = []
        for turn in range(max(2, plan.turns // 2) + 1):
            seconds = {}
            for run in (ours, theirs):
                for rows in (1, BATCH):
                    began = time.perf_counter()
                    run(rows)
                    seconds[run, rows] = time.perf_counter() - began
            if turn:
                our_scaling = seconds[ours, 1] / seconds[ours, BATCH]
                their_scaling = seconds[theirs, 1] / seconds[theirs, BATCH]
                ratios.append(our_scaling / their_scaling)
        return statistics.median(ratios)


if __name__ == "__main__":
    main()
