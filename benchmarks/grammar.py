"""What a grammar guarantees and what it costs: ``python -m benchmarks.grammar [--json]``.

Random members write under random JSON schemas and random lists of tools, with budgets that are
mostly too small for what they would rather write; an independent validator (jsonschema) reads every
text. Then the time of the mask is taken beside that of the members' forward passes.
"""

import argparse
import asyncio
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from jsonschema import Draft202012Validator

from benchmarks.models import SHAPES, Shape, random_model, tokenizers_of
from benchmarks.step_profile import FORWARD, timed_parts
from gac_core import Ensemble, Grammar, GrammarError
from gac_core.chat.tools import call_text
from gac_core.grammar.constraint import Constraint
from tests.schemas import random_schema

PARTS: tuple[tuple[str, type[Any], str], ...] = (
    ("mask", Constraint, "allowed"),
    ("budget for the end", Constraint, "has_budget"),
    ("advance", Constraint, "advance"),
)
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
BATCH = 16
REQUESTS = {"small": 20, "large": 4}  # whose time is taken
WRITERS = replace(SHAPES["small"], hidden=32, layers=1, heads=2, kv_heads=2, mlp=64)

Case = tuple[Grammar, Callable[[str], object]]  # and what raises if a text does not fit


def schema_cases(seed: int) -> Iterator[Case]:
    """Random schemas: nested, enums, bounds, arrays, optional fields, patterns, unions."""
    for number in count():
        schema = random_schema(random.Random(f"schema {seed} {number}"))
        validator = Draft202012Validator(schema)
        yield Grammar.json_schema(schema), partial(check_json, validator)


def tool_cases(seed: int) -> Iterator[Case]:
    """Random lists of one to four tools, of which one or more have to be called."""
    for number in count():
        rng = random.Random(f"tools {seed} {number}")
        schemas = {f"tool_{n}": random_schema(rng) for n in range(rng.randint(1, 4))}
        functions = [{"name": name, "parameters": schema} for name, schema in schemas.items()]
        validators = {name: Draft202012Validator(schema) for name, schema in schemas.items()}
        grammar = Grammar.tools(functions, required=True, parallel=rng.random() < 0.5)
        yield grammar, partial(check_calls, validators)


def check_json(validator: Draft202012Validator, text: str) -> None:
    """Raise unless a text is JSON that fits."""
    validator.validate(json.loads(text))


def check_calls(validators: Mapping[str, Draft202012Validator], text: str) -> None:
    """Raise unless a text is calls of these tools and nothing else."""
    bodies = CALL.findall(text)
    if not bodies or CALL.sub("", text).strip():
        raise ValueError(f"{text!r} is not calls alone")
    for body in bodies:
        call = json.loads(body)
        if call.keys() != {"name", "arguments"}:
            raise ValueError(f"{body!r} is no call; such as {call_text('f', {})!r}")
        validators[call["name"]].validate(call["arguments"])


async def guarantee(ensemble: Ensemble, cases: Iterator[Case], wanted: int) -> dict[str, int]:
    """How many texts were asked for, how many refused in advance, how many are valid.

    Raises:
        ValidationError: one is not.

    """
    figures = {"asked": 0, "budget_too_small": 0, "valid": 0, "steps": 0}
    rng = random.Random("budgets")
    while figures["valid"] < wanted:
        now = list(islice(cases, min(BATCH, wanted - figures["valid"])))
        answers = [
            ensemble.agenerate(
                "Hello",
                max_new_tokens=rng.randint(50, 250),
                temperature=rng.choice((0.0, 1.0, 3.0)),
                seed=rng.randrange(1000),
                grammar=grammar,
            )
            for grammar, _ in now
        ]
        for answer, (_, check) in zip(
            await asyncio.gather(*answers, return_exceptions=True), now, strict=True
        ):
            figures["asked"] += 1
            if isinstance(answer, GrammarError) and "raise max_new_tokens" in str(answer):
                figures["budget_too_small"] += 1
                continue
            if isinstance(answer, BaseException):
                raise answer
            check(answer.text)
            figures["valid"] += 1
            figures["steps"] += answer.usage.steps
    return figures


def cost(size: str, requests: int) -> dict[str, float]:
    """Milliseconds a step of the mask, of what else the grammar does, and of the forwards."""
    shape = SHAPES[size]
    models = [random_model(shape, rows, seed) for seed, rows in enumerate(shape.rows)]
    pairs: list[Any] = list(zip(models, tokenizers_of(shape), strict=True))
    steps = 0
    with Ensemble.from_models(pairs) as ensemble:
        ensemble.generate("Hello", grammar=Grammar.json_schema({}), max_new_tokens=40)
        with timed_parts(models, PARTS) as timers:
            for grammar, _ in islice(schema_cases(1), requests):
                with suppress(GrammarError):
                    output = ensemble.generate("Hello", grammar=grammar, max_new_tokens=100)
                    steps += output.usage.steps
    ms = {name: 1000 * seconds / steps for name, seconds in timers.seconds.items()}
    of_grammar = sum(ms[name] for name, _, _ in PARTS)
    return {
        "steps": steps,
        **{name.replace(" ", "_") + "_ms": round(ms[name], 3) for name, _, _ in PARTS},
        "forwards_ms": round(ms[FORWARD], 3),
        "grammar_over_forwards": round(of_grammar / ms[FORWARD], 3),
    }


def main() -> None:
    """Print what was measured, as JSON or as lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--texts", type=int, default=1000, help="of each kind")
    parser.add_argument("--sizes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measured(options.texts, options.sizes)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, values in figures.items():
        print(name, *(f"{key} {value}" for key, value in values.items()), sep="  ")


def measured(texts: int, sizes: Sequence[str], shape: Shape = WRITERS) -> dict[str, Any]:
    """All figures; the texts are written by a pair of tiny members with large vocabularies."""
    figures: dict[str, Any] = {}
    models = [random_model(shape, rows, seed) for seed, rows in enumerate(shape.rows)]
    pairs: list[Any] = list(zip(models, tokenizers_of(shape), strict=True))
    with Ensemble.from_models(pairs) as ensemble:
        for name, cases in (("json_schema", schema_cases(0)), ("tools", tool_cases(0))):
            figures[name] = asyncio.run(guarantee(ensemble, cases, texts))
            sys.stderr.write(f"{name} {figures[name]}\n")
    return figures | {f"cost_{size}": cost(size, REQUESTS[size]) for size in sizes}


if __name__ == "__main__":
    main()
