import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Mamba2Config,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from gac_core import MemberError
from gac_core.members.base import Query
from gac_core.members.local import LocalScorer
from tests.cases import matrix

ROWS = 61
CONTEXT = 96


def built(config_class: Any, **options: Any) -> PreTrainedModel:
    attention = options.pop("attention", "sdpa")
    config = config_class(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        **options,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().double()
    assert isinstance(model, PreTrainedModel)
    return model


def old_style(config_class: Any, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 1}
    model = AutoModelForCausalLM.from_config(config_class(vocab_size=ROWS, **ids, **options))
    model.eval().double()
    assert isinstance(model, PreTrainedModel)
    return model


SHORT = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1}
WITH_CACHE: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: built(LlamaConfig),
    "llama-eager": lambda: built(LlamaConfig, attention="eager"),
    "qwen2": lambda: built(Qwen2Config),
    "qwen3": lambda: built(Qwen3Config, head_dim=8),
    "mistral-window": lambda: built(MistralConfig, sliding_window=8),
    "gemma3-mixed": lambda: built(Gemma3TextConfig, sliding_window=8, head_dim=8),
    "gemma2-mixed-eager": lambda: built(
        Gemma2Config, sliding_window=8, head_dim=8, attention="eager"
    ),
    "neox": lambda: built(GPTNeoXConfig),
    "gpt2": lambda: old_style(GPT2Config, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT),
}
WITHOUT: dict[str, Callable[[], PreTrainedModel]] = {
    "dynamic-rope": lambda: built(
        LlamaConfig, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    ),
    "alibi-bloom": lambda: old_style(BloomConfig, hidden_size=32, n_layer=2, n_head=4),
    "alibi-falcon": lambda: old_style(
        FalconConfig, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
    "mamba2": lambda: old_style(
        Mamba2Config, hidden_size=32, num_hidden_layers=2, expand=2, **SHORT
    ),
}


@matrix(name=[*WITH_CACHE, *WITHOUT], bucket=[4, 1024])
def test_law_5_any_schedule_equals_plain_forwards(
    name: str, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that join, leave, grow, roll back, are rewritten or asked again."""
    monkeypatch.setattr("gac_core.members.local._FIRST_BUCKET", bucket)
    model = (WITH_CACHE | WITHOUT)[name]()
    scorer, oracle = LocalScorer(model, name), LocalScorer(model, name, use_cache=False)
    assert scorer.has_cache == (name in WITH_CACHE)
    rng = random.Random(name)
    rows: dict[int, list[int]] = {}
    for turn in range(40):
        for key in list(rows):
            fate = rng.random()
            if fate < 0.1:
                scorer.drop([key])
                del rows[key]
            elif fate < 0.3:
                rows[key] = rows[key][: rng.randint(1, len(rows[key]))]
        if rng.random() < 0.4 and len(rows) < 6:
            source = rng.choice([*rows.values(), []])  # some begin like another row
            tail = [rng.randrange(ROWS) for _ in range(rng.randint(1, 30))]
            rows[turn] = [*source, *tail][:CONTEXT]
        asked = [key for key in rows if rng.random() < 0.7]
        for key in asked:
            new = [rng.randrange(ROWS) for _ in range(rng.choice([0, 1, 1, 1, 5]))]
            rows[key] = [*rows[key], *new][:CONTEXT]
        queries = [Query(list(rows[k]), last=rng.randint(1, min(4, len(rows[k])))) for k in asked]
        for got, want in zip(scorer.score(queries, asked), oracle.score(queries), strict=True):
            torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=2e-6)
            assert got.hidden is None
    for key in rows:
        scorer.drop([key])
    assert scorer.held_sequences == 0
    if name in WITH_CACHE and bucket > CONTEXT:
        assert scorer.stats.positions < 0.6 * oracle.stats.positions


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WITH_CACHE, *WITHOUT])
def test_hidden_states_are_those_of_a_plain_forward(name: str) -> None:
    """Beside queries that do not want them, after rewinds, with and without a cache."""
    model = (WITH_CACHE | WITHOUT)[name]()
    scorer = LocalScorer(model, name)
    rng = random.Random(name)
    rows = [[rng.randrange(ROWS) for _ in range(n)] for n in (9, 14, 12, 11)]
    for turn in range(4):
        queries = [
            Query(ids, last=rng.randint(1, 4), hidden=(turn + n) % 3 > 0)
            for n, ids in enumerate(rows)
        ]
        for keys in (range(4), None):
            for query, got in zip(queries, scorer.score(queries, keys), strict=True):
                with torch.no_grad():
                    ids = torch.tensor([list(query.ids)])
                    plain = model(input_ids=ids, output_hidden_states=True, use_cache=False)
                close: dict[str, Any] = {"rtol": 0, "atol": 2e-6, "check_dtype": False}
                torch.testing.assert_close(got.logits, plain.logits[0, -query.last :], **close)
                if not query.hidden:
                    assert got.hidden is None
                    continue
                states = plain.hidden_states[-1][0, -query.last :]
                assert states.shape == (query.last, scorer.hidden_size)
                torch.testing.assert_close(got.hidden, states, **close)
        rows = [
            [*ids[: rng.randint(1, len(ids))], *(rng.randrange(ROWS) for _ in range(4))]
            for ids in rows
        ]


def test_what_was_read_is_not_computed_again() -> None:
    scorer = LocalScorer(WITH_CACHE["llama"](), "llama")
    ids = list(range(20))
    scorer.score([Query(ids)], ["a"])
    assert (scorer.stats.forwards, scorer.stats.positions) == (1, 20)
    scorer.score([Query([*ids, 5])], ["a"])
    assert scorer.stats.positions == 21
    scorer.score([Query([*ids[:18], 7, 8, 9])], ["a"])  # a rewritten tail
    assert scorer.stats.positions == 24
    scorer.score([Query([*ids, 4])], ["b"])  # a new row that begins like another
    assert scorer.stats.positions == 27


def test_all_rows_share_a_forward_and_padding_does_not_count() -> None:
    scorer = LocalScorer(WITH_CACHE["llama"](), "llama")
    queries = [Query(list(range(n))) for n in (10, 11, 12, 9)]
    scorer.score(queries, list("abcd"))
    assert (scorer.stats.forwards, scorer.stats.positions) == (1, 42)
    scorer.score([Query([*q.ids, 1]) for q in queries], list("abcd"))
    assert (scorer.stats.forwards, scorer.stats.positions) == (2, 46)


def test_a_long_prompt_does_not_pad_short_ones() -> None:
    scorer = LocalScorer(WITH_CACHE["llama"](), "llama")
    scorer.score([Query(list(range(60))), Query([1]), Query([2])], list("abc"))
    assert scorer.stats.forwards == 2


def test_a_long_row_does_not_take_room_for_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gac_core.members.local._FIRST_BUCKET", 8)
    scorer = LocalScorer(WITH_CACHE["llama"](), "llama")
    short = [Query([n, 1, 2]) for n in range(16)]
    keys = list(range(17))
    scorer.score([*short, Query(list(range(50)) + list(range(40)))], keys)
    sizes = {size: bucket._reserved for size, bucket in scorer._caches.items()}
    assert sizes == {8: (16, 64), 512: (1, 128)}
    scorer.score([Query([0, 1, 2, *range(20)])], [0])  # it has outgrown its bucket
    assert [len(bucket) for bucket in scorer._caches.values()] == [15, 1, 1]
    scorer.drop(keys)
    assert all(not bucket._stores() for bucket in scorer._caches.values())


def test_a_failed_forward_is_a_typed_error_and_leaves_no_trace() -> None:
    model = WITH_CACHE["llama"]()
    scorer, oracle = LocalScorer(model, "fragile"), LocalScorer(model, "oracle", use_cache=False)
    scorer.score([Query([1, 2, 3])], ["a"])
    (bucket,) = scorer._caches.values()
    keys = weakref.ref(bucket._stores()[0])
    with pytest.raises(MemberError, match="fragile"):
        scorer.score([Query([1, 2, 3, ROWS + 5])], ["a"])
    assert scorer.held_sequences == 0
    assert keys() is None  # freed at once, though cache and layers refer to one another
    (got,) = scorer.score([Query([1, 2, 3, 4])], ["a"])
    (want,) = oracle.score([Query([1, 2, 3, 4])])
    torch.testing.assert_close(got.logits, want.logits)


def test_queries_are_checked() -> None:
    with pytest.raises(ValueError, match="last"):
        Query([1, 2], last=3)
    with pytest.raises(ValueError, match="same key"):
        LocalScorer(WITH_CACHE["llama"](), "llama").score([Query([1]), Query([2])], ["a", "a"])
