"""Ask the embedded ensemble one question."""

from gac_core import Ensemble

with Ensemble.pocket() as ensemble:
    output = ensemble.generate([{"role": "user", "content": "What is 47 + 35?"}])
    print(output.text)
    print(f"{output.usage.steps} steps, ended by {output.finish_reason}")
