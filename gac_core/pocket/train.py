"""Train the pocket members: ``python -m gac_core.pocket.train [ada bo cy]``.

One member takes an hour and a half of one CPU core. Each has its own tokenizer family, chat
template and strongest subjects, so that the three know different things. Nothing is read but
the code in `tasks/` and `training/`; the same command gives the same data in the same order. A run
that was stopped goes on from its last checkpoint in the output folder.

What made the members good, measured on earlier runs: loss on answers only, END included; a few
percent of the answers' tokens split into pieces the member would not write itself, since in an
ensemble it will meet the pieces of others; Muon on the block matrices; a linear decay over the
last fifth. More is in `docs/pocket.md`.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gac_core.pocket.training.batches import Encoder, batch
from gac_core.pocket.training.model import answer_loss, new_model, save
from gac_core.pocket.training.recipes import RECIPES
from gac_core.pocket.training.tokenizer import train_tokenizer

_REPORTED_EVERY = 100  # steps
_SAVED_EVERY = 500


def new_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.model.layers.named_parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_scale(step: int, steps: int, warm_up: int = 60) -> float:
    """Linear warm-up, constant, then linearly down over the last fifth, to about a quarter.

    Down to zero each member gains a few points and their ensemble none: they agree more.
    """
    zero = steps * 15 / 14
    return min(1.0, (step + 1) / warm_up, (zero - step) / (0.25 * zero))


@dataclass(frozen=True)
class Progress:
    """How far a training is: the next step, the slots of tokens seen, and the CPU seconds."""

    step: int = 0
    slots: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path,
    progress: Progress,
    model: Qwen3ForCausalLM,
    optimizers: list[torch.optim.Optimizer],
) -> None:
    """Write what `resumed` reads."""
    states = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    torch.save({**vars(progress), **states}, path)


def resumed(
    path: Path, model: Qwen3ForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> Progress:
    """The progress of a checkpoint, whose state the model and the optimizers take on."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(int(state["step"]), int(state["slots"]), float(state["seconds"]))


def train(name: str, out: Path, steps: int | None = None, *, compiled: bool = True) -> None:
    """Train one member and save it as a model folder under `out/name`.

    Args:
        name: of the recipe.
        out: a folder; what it holds of this member is replaced, or gone on with from a checkpoint.
        steps: instead of the recipe's own number.
        compiled: whether the model is compiled, which takes a minute and then saves time.

    """
    recipe = RECIPES[name]
    steps = steps or recipe.steps
    torch.set_num_threads(1)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    is_resumed = checkpoint.exists()
    if is_resumed:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(recipe)
        tokenizer.save_pretrained(folder)
    model = new_model(recipe, tokenizer)
    optimizers = new_optimizers(model)
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    done = resumed(checkpoint, model, optimizers) if is_resumed else Progress()

    body = torch.compile(model.model, dynamic=False) if compiled else model.model
    encoder = Encoder(tokenizer)
    slots, began, mean = done.slots, time.process_time() - done.seconds, math.nan
    for step in range(done.step, steps):
        ids, targets = batch(recipe, encoder, step)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate_scale(step, steps)
        loss = answer_loss(model, body, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        slots += ids.numel()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        seconds = time.process_time() - began
        if (step + 1) % _REPORTED_EVERY == 0:
            print(f"{name} step {step + 1}/{steps} loss {mean:.4f} {seconds:.0f} CPU s", flush=True)
        if (step + 1) % _SAVED_EVERY == 0:
            save_checkpoint(checkpoint, Progress(step + 1, slots, seconds), model, optimizers)
    save(model, tokenizer, folder)
    checkpoint.unlink(missing_ok=True)
    report = {
        "steps": steps,
        "slots": slots,
        "final_loss": round(mean, 4),
        "cpu_seconds": round(time.process_time() - began),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Train the members that the command line names."""
    parser = argparse.ArgumentParser(description="Train the pocket members.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "members")
    parser.add_argument("--steps", type=int, help="instead of the recipe's own number")
    options = parser.parse_args()
    for name in options.names:
        train(name, options.out, options.steps)


if __name__ == "__main__":
    main()
