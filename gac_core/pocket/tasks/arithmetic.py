"""Sums, differences, products and word problems, with their working."""

from gac_core.pocket.tasks.exchange import Exchange, Turn, user
from gac_core.pocket.words import THINGS, Source


def _sum_with_working(a: int, sign: str, b: int) -> str:
    """Up to 99 at once, above it place by place."""
    result = a + b if sign == "+" else a - b
    if max(a, b) < 100:
        return f"{a} {sign} {b} = {result}"
    steps, total = [], a
    for place in (100, 10, 1):
        part = b // place % 10 * place
        if part:
            reached = total + part if sign == "+" else total - part
            steps.append(f"{total} {sign} {part} = {reached}.")
            total = reached
    return " ".join([*(steps if len(steps) > 1 else []), f"{a} {sign} {b} = {result}"])


def _arithmetic_turn(source: Source) -> Turn:
    rng = source.rng
    while True:
        sign = rng.choice("++--*")
        if sign == "*":
            a, b = rng.randint(11, 99), rng.randint(2, 9)
            tens, ones = a // 10 * 10 * b, a % 10 * b
            working = f"{tens} + {ones} = " if ones else ""
            answer = f"{a} * {b} = {working}{a * b}"
        else:
            top = rng.choice((20, 100, 100, 1000))
            a, b = rng.randrange(top), rng.randrange(top)
            if sign == "-" and a < b:
                a, b = b, a
            answer = _sum_with_working(a, sign, b)
        if source.has(f"{min(a, b)} {sign} {max(a, b)}"):
            break
    asked = rng.choice(("What is {}?", "Compute {}.", "{} = ?", "How much is {}?", "{}"))
    return Turn("arithmetic", user(asked.format(f"{a} {sign} {b}")), answer)


def arithmetic(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Sums, differences and products; large ones with their working."""
    return Exchange([], [_arithmetic_turn(source) for _ in range(turns)])


_GAINS = ("buys {n} more", "finds {n} more", "gets {n} more", "wins {n} more")
_LOSSES = ("gives away {n}", "loses {n}", "sells {n}", "drops {n}")


def _word_problem_turn(source: Source) -> Turn:
    rng = source.rng
    while True:
        name, thing = source.name(), source.pick(THINGS)
        start = rng.randint(5, 60)
        text, total, steps = [f"{name} has {start} {thing}."], start, []
        for _ in range(2):
            gain = rng.random() < 0.5 or total < 3
            n = rng.randint(2, 40) if gain else rng.randint(1, total - 1)
            text.append(f"{name} {rng.choice(_GAINS if gain else _LOSSES).format(n=n)}.")
            result = total + n if gain else total - n
            steps.append(f"{total} {'+' if gain else '-'} {n} = {result}.")
            total = result
        if source.has(" ".join(steps)):
            break
    question = " ".join([*text, f"How many {thing} does {name} have now?"])
    return Turn("word_problem", user(question), " ".join([*steps, f"{name} has {total} {thing}."]))


def word_problem(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Two steps of adding and taking away, answered with the working."""
    return Exchange([], [_word_problem_turn(source) for _ in range(turns)])
