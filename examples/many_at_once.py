"""Requests that run at the same time share the members' forward passes."""

import asyncio

from gac_core import Ensemble


async def main() -> None:
    """Ask five questions at once."""
    questions = [f"What is {n} + {n + 5}?" for n in (3, 14, 25, 31, 42)]
    with Ensemble.pocket() as ensemble:
        prompts = [[{"role": "user", "content": question}] for question in questions]
        outputs = await ensemble.abatch(prompts, max_new_tokens=20)
        for question, output in zip(questions, outputs, strict=True):
            print(question, output.text)
        forwards = sum(member.scorer.stats.forwards for member in ensemble.members)
        steps = sum(output.usage.steps for output in outputs)
        print(f"{forwards} forward passes for {steps} steps of {len(ensemble.members)} members")


asyncio.run(main())
