"""Statements about people and things: what is looked up, reported and extracted."""

from dataclasses import dataclass

from gac_core.pocket.words import ANIMALS, COLOURS, JOBS, NOUNS, Source


@dataclass(frozen=True)
class Fact:
    """A statement, the question it answers, and the answer (the statement once more)."""

    statement: str
    question: str
    answer: str
    name: str
    key: str
    value: str


_PEOPLE = {  # key: (statement, question)
    "age": ("{name} is {value} years old.", "How old is {name}?"),
    "city": ("{name} lives in {value}.", "Where does {name} live?"),
    "job": ("{name} works as {value}.", "What does {name} work as?"),
    "car": ("The car of {name} is {value}.", "What colour is the car of {name}?"),
    "friend": ("The best friend of {name} is {value}.", "Who is the best friend of {name}?"),
    "pet": ("The pet of {name} is {value}.", "What is the pet of {name}?"),
    "code": ("The code of {name} is {value}.", "What is the code of {name}?"),
}
_KINDS = ("", "", "", "", "Project ", "Lake ", "Hotel ", "Team ")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _value(source: Source, key: str) -> str:
    match key:
        case "age":
            return str(source.number(18, 99))
        case "city":
            return source.city()
        case "job":
            return _with_article(source.pick(JOBS))
        case "car":
            return source.pick(COLOURS)
        case "friend":
            return source.name()
        case "pet":
            return _with_article(source.pick(ANIMALS))
        case "code":
            return source.digits(4)
    match source.rng.randrange(6):
        case 0:
            return source.digits(source.rng.choice((3, 4, 5, 6)))
        case 1:
            return str(source.number(2, 99))
        case 2:
            return source.pick(COLOURS)
        case 3:
            return f"{source.number(2, 99)} {source.rng.choice(('euros', 'metres', 'points'))}"
        case _:
            return source.invented()


def fact_about(source: Source, name: str) -> Fact:
    """A random fact about this name."""
    rng = source.rng
    if " " not in name and rng.random() < 0.55:
        key = rng.choice(list(_PEOPLE))
        value = _value(source, key)
        statement, question = _PEOPLE[key]
        stated = statement.format(name=name, value=value)
        return Fact(stated, question.format(name=name), stated, name, key, value)
    key = source.pick(NOUNS)
    value = _value(source, key)
    answer = f"The {key} of {name} is {value}."
    statement = rng.choice((answer, answer, f"{name}'s {key} is {value}."))
    question = rng.choice((f"What is the {key} of {name}?", f"What is {name}'s {key}?"))
    return Fact(statement, question, answer, name, key, value)


def facts_about(source: Source, count: int) -> list[Fact]:
    """Facts, no two of which answer the same question; some share a name, some a key."""
    rng = source.rng
    names = [rng.choice(_KINDS) + n for n in source.names(rng.randint(1, 1 + count // 2))]
    facts: list[Fact] = []
    seen: set[tuple[str, str]] = set()
    in_vain = 0
    while len(facts) < count:
        fact = fact_about(source, rng.choice(names))
        if (fact.name, fact.key) not in seen:
            seen.add((fact.name, fact.key))
            facts.append(fact)
            in_vain = 0
        elif (in_vain := in_vain + 1) == 100:  # the names have all the facts there are
            names.append(source.name())
            in_vain = 0
    if rng.random() < 0.3:
        facts.sort(key=lambda fact: names.index(fact.name))
    return facts


def as_context(source: Source, facts: list[Fact]) -> str:
    """The statements as lines, as paragraphs, or as chunks of a retriever."""
    rng = source.rng
    statements = [fact.statement for fact in facts]
    match rng.randrange(5):
        case 0 | 1:
            return "\n".join(statements)
        case 2:
            return " ".join(statements)
        case 3:
            return "\n\n".join(statements)
        case _:
            size = rng.randint(2, 4)
            chunks = [" ".join(statements[i : i + size]) for i in range(0, len(statements), size)]
            return "\n\n".join(chunks)
