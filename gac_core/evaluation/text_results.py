"""What was measured of a system over texts, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gac_core.evaluation.results import Estimate, Floats, SystemKind
from gac_core.outputs import Step

_RESAMPLES: Final = 10_000
_AT_ONCE: Final = 4_000_000  # numbers in memory


@dataclass
class TextResult:
    """How well one system predicts texts.

    Attributes:
        bits: per text, of each of its pieces, (pieces,).
        sizes: per text, the bytes of each of its pieces, (pieces,).
        steps: units that were predicted.
        fused_steps: those that all members decided together.
        impossible: per text, the steps that were given no probability, so that its bits are
            infinite.
        seconds: of wall time.

    """

    name: str
    kind: SystemKind
    bits: dict[str, Floats] = field(default_factory=dict)
    sizes: dict[str, Floats] = field(default_factory=dict)
    steps: int = 0
    fused_steps: int = 0
    impossible: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, text: str, steps: Sequence[Step]) -> None:
        """Add what the steps over a piece of a text took."""
        self.steps += len(steps)
        self.fused_steps += sum(step.decided_by == "ensemble" for step in steps)
        lost = sum(math.isinf(step.logprob) for step in steps)
        self.impossible[text] = self.impossible.get(text, 0) + lost

    @property
    def fused_share(self) -> float:
        """The share of steps that all members decided together."""
        return self.fused_steps / max(1, self.steps)

    def pieces(self, text: str | None = None) -> tuple[Floats, Floats]:
        """The bits and the bytes of each piece of a text, or of all of them."""
        if text is not None:
            return self.bits[text], self.sizes[text]
        return np.concatenate([*self.bits.values()]), np.concatenate([*self.sizes.values()])

    def bits_per_byte(self, text: str | None = None) -> Estimate:
        """Of a text, or of all together: bits by bytes, bootstrap over the pieces."""
        bits, sizes = self.pieces(text)
        return _ratio(bits, sizes)

    def difference(self, over: "TextResult", text: str | None = None) -> Estimate:
        """Its bits per byte minus another's, paired bootstrap over the pieces."""
        bits, sizes = self.pieces(text)
        others, _ = over.pieces(text)
        if not np.isfinite(others).all():
            return Estimate(math.nan, (math.nan, math.nan))
        return _ratio(bits - others, sizes)


def _ratio(bits: Floats, sizes: Floats) -> Estimate:
    """The sum of the bits by that of the sizes, with its interval over resampled pieces."""
    value = float(bits.sum() / sizes.sum())
    if not math.isfinite(value):
        return Estimate(value, (value, value))
    rng, count = np.random.default_rng(0), len(bits)
    shares = np.full(count, 1 / count)
    part = max(1, _AT_ONCE // count)
    found = []
    for first in range(0, _RESAMPLES, part):
        times = rng.multinomial(count, shares, size=min(part, _RESAMPLES - first))
        found.append((times @ bits) / (times @ sizes))
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975))
    return Estimate(value, (float(low), float(high)))


def best_reader(results: Sequence[TextResult], text: str | None = None) -> TextResult:
    """The member with the fewest bits per byte, over a text or over all together."""
    members = [result for result in results if result.kind == "member"]
    return min(members, key=lambda result: result.bits_per_byte(text).value)


def texts_as_json(results: Sequence[TextResult]) -> dict[str, Any]:
    """All results as plain values; what is infinite, or not to be had, is None."""
    best = best_reader(results)
    rows = [
        {
            "name": result.name,
            "kind": result.kind,
            "texts": {name: _as_json(result, results, name) for name in result.bits},
            "all": _as_json(result, results, None),
            "fused_share": result.fused_share,
            "steps": result.steps,
            "impossible_steps": sum(result.impossible.values()),
            "seconds": result.seconds,
        }
        for result in results
    ]
    return {"best_member": best.name, "rows": rows}


def _as_json(result: TextResult, results: Sequence[TextResult], text: str | None) -> dict[str, Any]:
    _, sizes = result.pieces(text)
    value = {
        "bytes": int(sizes.sum()),
        "pieces": len(sizes),
        "bits_per_byte": result.bits_per_byte(text).as_json(),
    }
    if result.kind != "member":
        best = best_reader(results, text)
        value["over_best_member"] = {
            "member": best.name,
            **result.difference(best, text).as_json(),
        }
    return value
