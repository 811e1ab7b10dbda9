"""Co-LLM: a learned gate says where to ask the others (https://arxiv.org/abs/2403.03870).

The paper hands a deferred token to the other model; here all members decide it together, as in a
cascade, so what the gate learns is where fusing pays.
"""

from collections.abc import Generator

from gac_core.decoding.request import Ask, Logits, Request
from gac_core.methods.gating import DEFAULT_THRESHOLD
from gac_core.outputs import Step


def co_llm(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask the primary; where the gate's P(defer) exceeds the threshold, ask the others too."""
    primary, others, gate = request.primary, request.others, request.settings.gate
    assert gate is not None, "the configuration asks for one"
    threshold = request.config.threshold
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold
    while not request.finished:
        logits = yield request.ask(primary, hidden=True)
        own = request.read(logits)
        if not others or gate(request.hidden_state(primary, logits)) <= threshold:
            yield request.emit_alone(own[primary])
            continue
        own |= request.read((yield request.ask(*others)))
        yield request.emit_fused(request.fuse(own))
