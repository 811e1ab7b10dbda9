"""Steps and outcomes as plain dicts, in which the frameworks hand them on."""

from typing import Any

from gac_core import Outcome, Step


def token_view(step: Step) -> dict[str, Any]:
    """A step as OpenAI's API describes a token, and each member's view of it."""
    return {
        **_named(step.unit, step.logprob),
        "top_logprobs": [_named(unit, logprob) for unit, logprob in step.top],
        "decided_by": step.decided_by,
        "members": [
            {
                "name": view.name,
                "top": view.top.decode(errors="replace"),
                "top_prob": view.top_prob,
                "prob": view.prob,
            }
            for view in step.members
        ],
    }


def _named(unit: bytes, logprob: float) -> dict[str, Any]:
    return {"token": unit.decode(errors="replace"), "bytes": list(unit), "logprob": logprob}


def outcome_view(outcome: Outcome, model_name: str, *, has_calls: bool) -> dict[str, Any]:
    """How an answer ended, and what each member read and wrote."""
    usage = outcome.usage
    is_cut = outcome.finish_reason == "length"
    return {
        "finish_reason": "tool_calls" if has_calls and not is_cut else outcome.finish_reason,
        "model_name": model_name,
        "model_provider": "gac",
        "members": [
            {
                "name": member.name,
                "prompt_tokens": member.prompt_tokens,
                "completion_tokens": member.completion_tokens,
            }
            for member in usage.members
        ],
        "steps": usage.steps,
        "fused_steps": usage.fused_steps,
        "seed": outcome.seed,
    }
