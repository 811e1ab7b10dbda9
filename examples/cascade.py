"""Fuse only where the first member is unsure, and see what it saves."""

from gac_core import Ensemble

QUESTION = "The code of Ada is 4821.\nThe code of Ben is 9037.\n\nWhat is the code of Ben?"

for threshold in (0.0, 0.5, 0.9, 0.99, 1.0):
    with Ensemble.pocket(method="cascade", threshold=threshold) as ensemble:
        output = ensemble.generate([{"role": "user", "content": QUESTION}])
    share = output.usage.fused_steps / output.usage.steps
    print(f"threshold {threshold}: {share:4.0%} of the steps fused: {output.text}")
