"""Fuse only where the first member is unsure, and see what it saves."""

from gac_core import Ensemble

QUESTION = "Mia has 31 coins. Mia finds 9 more. Mia loses 5. How many coins does Mia have now?"

for threshold in (0.0, 0.5, 0.9, 1.0):
    with Ensemble.pocket(method="cascade", threshold=threshold) as ensemble:
        output = ensemble.generate([{"role": "user", "content": QUESTION}])
    share = output.usage.fused_steps / output.usage.steps
    print(f"threshold {threshold}: {share:4.0%} of the steps fused: {output.text}")
