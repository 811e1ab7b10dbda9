"""Fitting the gate of method co_llm to what an ensemble did on prompts.

All members are asked at every step. Where the primary's choice and the fused one agree as text, the
primary writes its own, else the fused one is written: the steps of a gate that is always right,
so the fitted one meets what it was fitted to. With u the fused choice, each step is recorded as the
primary's last hidden state h, p_primary(u) and p_fused(u). The head g(h) = P(defer) then minimises
the negative marginal log-likelihood of Co-LLM (https://arxiv.org/abs/2403.03870, section 3) and a
cost, the mean over the steps of

    -log[(1 - g) p_primary(u) + g p_fused(u)] + cost * g.

Ours are the cost of asking the others, without which a gate also defers where the fusion is only a
little surer of what the primary would write anyway, and that p(u) is the mass of all units that
agree with u: "2" and "28" begin the same text, cut in two ways.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Self

import torch
import torch.nn.functional as F

from gac_core.chat.prompt import Prompt
from gac_core.config import EnsembleConfig
from gac_core.decoding.request import Decoder, Request
from gac_core.decoding.sampling import top_row
from gac_core.ensemble import Ensemble
from gac_core.errors import ConfigError
from gac_core.members.loading import load_members
from gac_core.method_specs import MethodSpec
from gac_core.methods.co_llm import CoLLMOptions, GateHead
from gac_core.outputs import Step
from gac_core.sampling_params import SamplingParams
from gac_core.tokens.union import UnionVocabulary

COST: Final = 0.02
_L2: Final = 1e-4  # on the weights of standardised features
_THRESHOLD: Final = CoLLMOptions.model_fields["threshold"].default
_HELD_OUT: Final = 5  # every fifth prompt
_TOP_UNITS: Final = 64  # of a distribution; the others have hardly any mass
_KEPT_OPTIONS: Final = (
    "members",
    "primary",
    "fusion",
    "weighting",
    "temper",
    "history",
    "max_batch",
)


# ------------------------------------------------ recording


@dataclass(frozen=True, kw_only=True)
class RecordedStep(Step):
    """A step with what the gate is fitted to.

    Attributes:
        hidden: the primary's last hidden state, (hidden_size,) in float32.
        primary: what it gave the text of the fused choice.
        fused: what the fused distribution gave it.
        differs: whether the primary would have written another text.

    """

    hidden: torch.Tensor
    primary: float
    fused: float
    differs: bool


def record_steps(request: Request) -> Decoder:
    """A method: ask all, fuse where the primary would write another text, and record."""
    primary, union = request.primary, request.union
    while not request.finished:
        answers = yield request.ask(hidden=True)
        states = answers[primary][0].hidden
        assert states is not None, "they were asked for"
        own = request.read(answers)
        fused = request.fuse(own)
        view, chosen = fused.views[primary], top_row(fused.probs)
        differs = not union.begin_alike(top_row(view), chosen)
        step = request.emit_fused(fused) if differs else request.emit_alone(own[primary])
        yield RecordedStep(
            **vars(step),
            hidden=states[-1].float().cpu().clone(),
            primary=_mass(union, view, chosen),
            fused=_mass(union, fused.probs, chosen),
            differs=differs,
        )


def _mass(union: UnionVocabulary, probs: torch.Tensor, chosen: int) -> float:
    """The probability of what agrees with a row, among that row and the most probable ones."""
    rows = {chosen, *probs.topk(min(_TOP_UNITS, len(probs))).indices.tolist()}
    return sum(float(probs[row]) for row in rows if union.begin_alike(row, chosen))


RECORDING: Final = MethodSpec("record_steps", record_steps)


@dataclass(frozen=True)
class Recording:
    """What happened at steps of answers.

    Attributes:
        hidden: the primary's last hidden states, (steps, hidden_size).
        primary: the log-probability it gave the text of the fused choice, (steps,).
        fused: the log-probability of that text in the fused distribution, (steps,).
        differs: whether the primary alone would have written another text, (steps,).

    """

    hidden: torch.Tensor
    primary: torch.Tensor
    fused: torch.Tensor
    differs: torch.Tensor

    @classmethod
    def of(cls, steps: Sequence[RecordedStep]) -> Self:
        """These steps together."""
        return cls(
            torch.stack([step.hidden for step in steps]).double(),
            _log([step.primary for step in steps]),
            _log([step.fused for step in steps]),
            torch.tensor([step.differs for step in steps]),
        )


def _log(probs: Sequence[float]) -> torch.Tensor:
    return torch.tensor(probs, dtype=torch.float64).clamp_min(1e-30).log()


def recording_config(config: EnsembleConfig) -> EnsembleConfig:
    """The configuration of the same ensemble for recording its steps.

    Raises:
        ConfigError: there is no member to ask but the primary.

    """
    if len(config.used) < 2:
        raise ConfigError("a gate says when to ask the others; name two models or more")
    return EnsembleConfig.of({name: getattr(config, name) for name in _KEPT_OPTIONS})


def recording_ensemble(config: EnsembleConfig) -> Ensemble:
    """An ensemble of a `recording_config` that records its steps."""
    load = partial(load_members, config.active().members, progress=False)
    return Ensemble(config, load, spec=RECORDING)


def record(
    ensemble: Ensemble,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    on_answer: Callable[[], None] = lambda: None,
) -> tuple[Recording, Recording]:
    """What an ensemble does on four fifths of the prompts, and on the rest.

    Args:
        ensemble: a `recording_ensemble`.
        prompts: five or more.
        sampling: how it answers.
        on_answer: called after each answer.

    Raises:
        ConfigError: there are fewer prompts.

    """
    if len(prompts) < _HELD_OUT:
        raise ConfigError(
            f"there are {len(prompts)} prompts; give {_HELD_OUT} at least, better hundreds"
        )
    known: list[RecordedStep] = []
    held_out: list[RecordedStep] = []
    streams = [ensemble.stream(prompt, sampling) for prompt in prompts]
    for n, stream in enumerate(streams, 1):
        steps = [step for step in stream if isinstance(step, RecordedStep)]
        (known if n % _HELD_OUT else held_out).extend(steps)
        on_answer()
    return Recording.of(known), Recording.of(held_out)


# ------------------------------------------------ fitting


def fit(recording: Recording, cost: float = COST) -> GateHead:
    """The head that explains the recorded steps best.

    Args:
        recording: of steps.
        cost: of asking the others at a step, in nats.

    """
    mean, spread = recording.hidden.mean(0), recording.hidden.std(0).clamp_min(1e-6)
    features = (recording.hidden - mean) / spread
    weight = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        scores = features @ weight + bias
        value = cost * scores.sigmoid().mean() - _explained(scores, recording).mean()
        value = value + _L2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        raw = weight / spread  # for hidden states as they are
        return GateHead(raw.float(), (bias - raw @ mean).float())


def _explained(scores: torch.Tensor, recording: Recording) -> torch.Tensor:
    """The log-probability of each fused choice, marginal over who decides it. (steps,)"""
    alone = F.logsigmoid(-scores) + recording.primary
    return torch.logaddexp(alone, F.logsigmoid(scores) + recording.fused)


@dataclass(frozen=True)
class Quality:
    """How good a gate is at steps it was not fitted to.

    Attributes:
        steps: how many there were.
        deferred: the share at which it asks the others, at threshold 0.5.
        differ: the share at which the primary alone would have written another text.
        caught: the share of these at which it asks the others; None if there were none.
        log_likelihood: of what was written, the mean over the steps.
        log_likelihood_never: if the primary always decided alone.
        log_likelihood_always: if all were asked at every step.

    """

    steps: int
    deferred: float
    differ: float
    caught: float | None
    log_likelihood: float
    log_likelihood_never: float
    log_likelihood_always: float

    def as_json(self) -> dict[str, Any]:
        """It as plain values."""
        return asdict(self)


def quality(gate: GateHead, recording: Recording) -> Quality:
    """How good a gate is at these steps."""
    scores = recording.hidden @ gate.weight.double() + gate.bias.double()
    deferred = scores.sigmoid() > _THRESHOLD
    caught = deferred[recording.differs].double()
    return Quality(
        len(deferred),
        float(deferred.double().mean()),
        float(recording.differs.double().mean()),
        float(caught.mean()) if len(caught) else None,
        float(_explained(scores, recording).mean()),
        float(recording.primary.mean()),
        float(recording.fused.mean()),
    )


# ------------------------------------------------ prompts


def parse_prompts(lines: Sequence[str], *, is_jsonl: bool, seed: int) -> list[Prompt]:
    """The prompts in the lines of a file, shuffled; blank ones are left out.

    Args:
        lines: one prompt each.
        is_jsonl: whether each is {"messages": [...]}, a chat, or {"prompt": "..."}, a raw text to
            go on with; else each is what a user asks.
        seed: of the order.

    Raises:
        ConfigError: a line is neither.

    """
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not is_jsonl:
            prompts.append([{"role": "user", "content": line}])
            continue
        try:
            prompts.append(_prompt(json.loads(line)))
        except ValueError as error:
            raise ConfigError(f"line {number} is no prompt: {error}") from error
    random.Random(f"gate {seed}").shuffle(prompts)
    return prompts


def _prompt(value: Any) -> Prompt:
    match value:
        case {"messages": list(messages), **rest} if not rest:
            return messages
        case {"prompt": str(prompt), **rest} if not rest:
            return prompt
    raise ValueError('it must be {"messages": [...]} or {"prompt": "..."}')
