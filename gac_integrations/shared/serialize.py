"""Steps and outcomes as plain dicts, in which the frameworks hand them on."""

from typing import Any

from gac_core import Step, Usage
from gac_core.chat.deltas import EndDelta


def token_dict(step: Step) -> dict[str, Any]:
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


def end_dict(end: EndDelta, model_name: str) -> dict[str, Any]:
    """How an answer ended, and what each member read and wrote."""
    usage = end.outcome.usage
    return {
        "finish_reason": end.finish_reason,
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
        "seed": end.outcome.seed,
    }


def usage_dict(*usages: Usage) -> dict[str, int]:
    """The tokens of one answer or more, as OpenAI's API counts them."""
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "total_tokens": sum(usage.total_tokens for usage in usages),
    }
