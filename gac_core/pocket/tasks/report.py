"""All facts about a name: long answers."""

from gac_core.pocket import forms
from gac_core.pocket.tasks.exchange import Exchange, Turn, fill, user
from gac_core.pocket.tasks.facts import as_context, facts_about
from gac_core.pocket.words import Source


def report(source: Source, turns: int, facts: int) -> Exchange:
    """All facts about a name, in the order of the context: answers of many sentences."""
    rng = source.rng
    known = facts_about(source, facts)
    context = as_context(source, known)
    names = list(
        dict.fromkeys(rng.choice(known).name for _ in range(turns))
    )  # more facts, likelier
    asked = []
    for name in names:
        form = rng.choice(
            ("Tell me all about {}.", "What do you know about {}?", "List the facts about {}.")
        )
        answer = " ".join(fact.statement for fact in known if fact.name == name)
        asked.append((form.format(name), answer))
    family = rng.choice((forms.PLAIN, forms.LANGCHAIN, forms.LLAMA_INDEX))
    (first, answer), *others = asked
    *opening, question = fill(rng.choice(family), context=context, question=first)
    more = [Turn("report", user(q), a) for q, a in others]
    return Exchange(opening, [Turn("report", question, answer), *more])
