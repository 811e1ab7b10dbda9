"""Watch who wanted what: every step carries each member's view."""

from gac_core import Ensemble

QUESTION = "The code of Ada is 4821.\nThe code of Ben is 9037.\n\nWhat is the code of Ben?"

with Ensemble.pocket() as ensemble:
    for step in ensemble.stream([{"role": "user", "content": QUESTION}]):
        views = ", ".join(f"{v.name} {v.top!r} {v.top_prob:.2f}" for v in step.members)
        print(f"{step.text!r:12} {views}")
