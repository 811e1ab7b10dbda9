"""CharED: fuse what members say of the next byte (https://arxiv.org/abs/2407.11009).

Members meet in what all text is made of, so no tokenizer is favoured and nothing need be mapped.
The paper fuses characters; bytes are the same without half ones, which some tokens are.
"""

from collections.abc import Generator

import numpy as np
import torch

from gac_core.decoding.byte_paths import BytePaths
from gac_core.decoding.request import Ask, Logits, Request
from gac_core.methods.every_step import every_step
from gac_core.outputs import Step


def chared(request: Request) -> Generator[Ask | Step, Logits, None]:
    """Ask where a token came to its end, fuse the next byte, emit it.

    Where all members share one vocabulary, tokens are common units already: bytes would cost more
    steps, and a member alone would no longer write what it writes.
    """
    if request.settings.units is request.union:
        yield from every_step(request)
        return
    most = 1 if request.config.paths == "top" else request.config.paths
    states = [
        BytePaths(
            history,
            member.tokenizer,
            most,
            context_size=member.scorer.context_size,
            leading_space=request.is_chat and member.leading_space,
            allowed=None if request.constraint is None else request.constraint.allowed,
        )
        for member, history in zip(request.members, request.histories, strict=True)
    ]
    while not request.finished:
        while queries := {m: asked for m, s in enumerate(states) if (asked := s.queries())}:
            logits = yield Ask(queries)
            for m, asked in queries.items():
                rows = zip(asked, logits[m], strict=True)
                states[m].read([request.to_probs(m, row[-1], query.ids) for query, row in rows])
        probs = np.stack([state.next_bytes() for state in states])
        step = request.emit_byte(torch.from_numpy(probs))
        yield step
        for state in states:
            state.advance(step.unit)
