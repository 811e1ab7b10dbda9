"""What drafting saves, with the same text.

``python -m benchmarks.drafting [--json] [--items 24]``

The embedded ensemble answers held-out questions with and without drafts by turns. `speedup` is the
median over the turns of tokens per second with drafts by those without, while the answer is
written: the time for the prompt and the first token, the same for both, is measured in each turn
and taken off. `speedup_with_prompt` is with it. Beside it, on members that
share a vocabulary, transformers' assisted generation with `assistant_ensemble_weight`, which mixes
two models but is not the same text.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gac_core import Ensemble, Output, pocket
from gac_core.pocket import tasks

SEED = 7  # of the questions; no development was done on them
TURNS = 5
NOISE = 0.02  # of the second member of one vocabulary, relative to each weight's spread


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--items", type=int, default=24, help="questions per task")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, Any]] = {}
    for task in ("retrieval", "report", "final_sentence", "arithmetic"):
        say(task)
        items = options.items if task != "report" else max(1, options.items // 4)
        figures[task] = of_task(task, items, {"draft": "ngrams"})
    say("a member that drafts")
    figures["retrieval_drafted_by_ada"] = of_task("retrieval", options.items, {"draft": 0})
    say("one vocabulary")
    figures["one_vocabulary"] = beside_assisted(options.items)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, values in figures.items():
        shown = (f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{name:26}", "; ".join(shown))


def say(what: str) -> None:
    """Progress, where it does not disturb the figures."""
    print(what, file=sys.stderr, flush=True)


def of_task(task: str, count: int, draft: dict[str, Any]) -> dict[str, Any]:
    """Every-step fusing of the pocket members with drafts, against without."""
    messages = [item.messages for item in tasks.heldout(task, count, SEED)]
    with Ensemble.pocket() as plain, Ensemble.pocket(**draft) as drafting:
        return compared(plain, drafting, messages)


def compared(plain: Ensemble, drafting: Ensemble, prompts: list[Any]) -> dict[str, Any]:
    """Tokens per second of the second by those of the first, one request at a time."""
    ratios, whole = [], []
    ours: list[Output] = []
    theirs: list[Output] = []
    for turn in range(TURNS + 1):
        reading, _ = timed(lambda: [plain.generate(p, max_new_tokens=1) for p in prompts])
        slow, theirs = timed(lambda: [plain.generate(p, max_new_tokens=160) for p in prompts])
        before = forwards(drafting)
        fast, ours = timed(lambda: [drafting.generate(p, max_new_tokens=160) for p in prompts])
        passes = forwards(drafting) - before
        if turn:  # the first warms up
            ratios.append((slow - reading) / (fast - reading))
            whole.append(slow / fast)
    steps = sum(output.usage.steps for output in ours)
    return {
        "speedup": statistics.median(ratios),
        "speedup_with_prompt": statistics.median(whole),
        "identical": [o.text for o in ours] == [o.text for o in theirs],
        "steps_per_pass": steps * len(drafting.members) / passes,
        "tokens_per_answer": steps / len(ours),
    }


def forwards(ensemble: Ensemble) -> int:
    """Passes of all members so far."""
    return sum(member.scorer.stats.forwards for member in ensemble.members)


def timed(work: Callable[[], list[Output]]) -> tuple[float, list[Output]]:
    """Seconds, and what was made."""
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def beside_assisted(count: int) -> dict[str, Any]:
    """Two members of one vocabulary, the second drafting: ours, and transformers'."""
    tokenizer = AutoTokenizer.from_pretrained(pocket.folder("ada"))
    target = AutoModelForCausalLM.from_pretrained(pocket.folder("ada")).eval()
    assistant = noisy(target)
    prompts = [item.messages for item in tasks.heldout("retrieval", count, SEED)]
    pairs = [(target, tokenizer), (assistant, tokenizer)]
    names = ["ada", "noisy ada"]
    with (
        Ensemble.from_models(pairs, names=names) as plain,
        Ensemble.from_models(pairs, names=names, draft=1) as drafting,
    ):
        figures = compared(plain, drafting, prompts)
        ratios = []
        same = 0
        for turn in range(TURNS + 1):
            ours, outputs = timed(
                lambda: [drafting.generate(p, max_new_tokens=160) for p in prompts]
            )
            began = time.perf_counter()
            texts = [assisted(target, assistant, tokenizer, p) for p in prompts]
            theirs = time.perf_counter() - began
            tokens = sum(len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts)
            if turn:
                made = sum(o.usage.completion_tokens for o in outputs)
                ratios.append((made / ours) / (tokens / theirs))
            same = sum(o.text == t for o, t in zip(outputs, texts, strict=True))
    figures["ours_vs_assisted_generation"] = statistics.median(ratios)
    figures["assisted_texts_like_ours"] = f"{same} of {count}"
    return figures


def noisy(model: PreTrainedModel) -> PreTrainedModel:
    """A second member of the same vocabulary that mostly agrees with the first."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(NOISE * parameter.std() * noise)
    return other


def assisted(
    target: PreTrainedModel, assistant: PreTrainedModel, tokenizer: Any, messages: Any
) -> str:
    """An answer by transformers' assisted generation over the mixture of both."""
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = target.generate(  # type: ignore[operator]
        **inputs,
        assistant_model=assistant,
        assistant_ensemble_weight=0.5,
        do_sample=False,
        max_new_tokens=160,
        pad_token_id=tokenizer.eos_token_id,
    )
    text: str = tokenizer.decode(
        output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return text


if __name__ == "__main__":
    main()
