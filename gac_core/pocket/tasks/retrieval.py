"""Finding a fact in a context."""

from gac_core.chat.tools import call_text, tools_text
from gac_core.pocket import forms
from gac_core.pocket.tasks.exchange import Exchange, Turn, fill, system, user
from gac_core.pocket.tasks.facts import Fact, as_context, facts_about
from gac_core.pocket.tasks.tools import function_schema
from gac_core.pocket.words import Source


def retrieval(source: Source, turns: int, facts: int) -> Exchange:
    """Questions about given facts; the answer repeats the fact."""
    rng = source.rng
    known = facts_about(source, facts)
    context = as_context(source, known)
    asked = rng.sample(known, min(turns, facts))
    first = asked[0]
    kind = rng.random()
    if kind < 0.1:
        return _refined(source, known, asked)
    if kind < 0.2:
        return _after_search(source, context, asked)
    family = rng.choice((forms.PLAIN, forms.LANGCHAIN, forms.LLAMA_INDEX))
    *opening, question = fill(rng.choice(family), context=context, question=first.question)
    more = [Turn("retrieval", user(fact.question), fact.answer) for fact in asked[1:]]
    return Exchange(opening, [Turn("retrieval", question, first.answer), *more])


def _refined(source: Source, known: list[Fact], asked: list[Fact]) -> Exchange:
    """An answer given before, and more context: repeat it, or take what the context says."""
    rng = source.rng
    turns = []
    for fact in asked:
        others = [f for f in known if f is not fact]
        if others and rng.random() < 0.5:
            context, given = as_context(source, others), fact.answer
        else:
            context = as_context(source, known)
            given = rng.choice(("don't know", "I don't know.", "Empty Response", fact.answer))
        filled = fill(forms.REFINE, context=context, question=fact.question, given=given)
        turns.append(Turn("retrieval", filled[0], fact.answer))
    return Exchange([], turns)


def _after_search(source: Source, context: str, asked: list[Fact]) -> Exchange:
    """A retriever as a tool: the call copies the question, the answer is in its result."""
    rng = source.rng
    name = rng.choice(("search", "retrieve", "lookup", "query_engine_tool", "search_documents"))
    argument = rng.choice(("query", "query", "input", "question"))
    tool = function_schema(name, {argument: "string"}, rng.choice(("Search the documents.", "")))
    turns = []
    for fact in asked:
        call = call_text(name, {argument: fact.question})
        turns.append(Turn("tool_call", user(fact.question), call))
        turns.append(Turn("retrieval", {"role": "tool", "content": context}, fact.answer))
    return Exchange(system(tools_text([tool])), turns)
