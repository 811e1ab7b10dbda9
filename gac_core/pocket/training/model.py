"""A member's model: new, its loss, and how it is saved."""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gac_core.pocket.training.batches import IGNORED
from gac_core.pocket.training.recipes import CONTEXT, Recipe


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained member; the same one for the same recipe."""
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
