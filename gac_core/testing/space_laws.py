"""The laws of the spaces in which members meet as bytes: `scored` and `bytes`.

Each raises `AssertionError` where a law is broken; see `laws`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from gac_core.chat.prompt import Prompt
from gac_core.ensemble import Ensemble
from gac_core.sampling_params import SamplingParams
from gac_core.testing.models import make_ensemble
from gac_core.testing.writers import Writer, cutting_tokenizer

Configuration = Mapping[str, Any]
Make = Callable[..., Ensemble]


def law_13_what_all_agree_on_is_written(
    cuts: Sequence[str],
    configuration: Configuration,
    text: str,
    prompt: Prompt,
    *,
    tails: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> None:
    """What each member alone would write, surer than a half of each piece, the ensemble writes.

    Args:
        cuts: of the members' tokenizers; see `CUTS`.
        configuration: what is checked; in the space of tokens the law does not hold.
        text: what they agree on.
        prompt: a text to continue, or chat messages.
        tails: how each member would go on behind the text; without any, the text is the answer.
        seed: of what else they hold likely, and of how they cut the text.
        options: of `Writer`.

    """
    tokenizers = [cutting_tokenizer(cut) for cut in cuts]
    texts = [(text + tail).encode() for tail in tails or [""] * len(cuts)]
    writers = [
        Writer(tokenizer, own, seed=seed + m, **options)
        for m, (tokenizer, own) in enumerate(zip(tokenizers, texts, strict=True))
    ]
    names = [f"{cut}-{m}" for m, cut in enumerate(cuts)]
    pairs: list[tuple[Any, PreTrainedTokenizerBase]] = [*zip(writers, tokenizers, strict=True)]
    with Ensemble.from_models(pairs, names=names, **configuration) as ensemble:
        is_chat = not isinstance(prompt, str)
        ids = ensemble.prompt_ids(prompt)
        for writer, own, member in zip(writers, ids, ensemble.members, strict=True):
            writer.begin(len(own), leading_space=is_chat and member.leading_space)
        output = ensemble.generate(prompt, max_new_tokens=len(text.encode()) + 4)
    if tails:
        written = b"".join(step.unit for step in output.steps)
        assert written.startswith(text.encode()), f"{written!r} is not what all would write"
    else:
        assert output.text == text, f"{output.text!r} is not what all would write"
        assert output.finish_reason == "stop", "all would end here"


def law_15_steps_are_tokens_of_the_primary(
    families: Sequence[str],
    configuration: Configuration,
    prompt: Prompt,
    *,
    make: Make = make_ensemble,
    **sampling: Any,
) -> None:
    """`max_new_tokens`, usage and logprobs count the primary's tokens.

    Args:
        families: of the members.
        configuration: what is checked; its `space` is scored or bytes, since in the space of
            tokens a unit may be another member's.
        prompt: a text to continue, or chat messages.
        make: makes the ensemble.
        sampling: fields of `SamplingParams`.

    """
    with make(families, **configuration) as ensemble:
        output = ensemble.generate(prompt, **sampling)
        primary = ensemble.members[ensemble.config.primary].tokenizer.vocabulary
    written = [step for step in output.steps if not step.is_end]
    usage, most = output.usage, SamplingParams.of(sampling).max_new_tokens
    assert usage.steps == len(output.steps), f"{usage.steps} steps, not {len(output.steps)}"
    assert usage.completion_tokens == len(written), f"{usage} of {len(written)} tokens"
    assert len(output.steps) <= most, f"{len(output.steps)} steps, but at most {most}"
    assert output.finish_reason == "stop" or len(output.steps) == most, "ended early"
    assert math.isfinite(sum(step.logprob for step in output.steps)), "a logprob is infinite"
    longest = max(map(len, primary.ids_by_bytes))
    for n, step in enumerate(written):
        spellings = (step.unit, b" " + step.unit) if n == 0 else (step.unit,)
        is_token = any(unit in primary.ids_by_bytes for unit in spellings)
        if configuration.get("space") == "bytes":
            # Bytes need not be a token where the others led the primary to where none goes on.
            is_token = is_token or 0 < len(step.unit) <= longest
        assert is_token, f"{step.unit!r} is no token of the primary"
