"""Small talk, and follow-up questions that are made to stand alone."""

from gac_core.pocket import forms
from gac_core.pocket.tasks.exchange import Exchange, Turn, user
from gac_core.pocket.tasks.facts import facts_about
from gac_core.pocket.words import Source


def condense(source: Source, turns: int, facts: int) -> Exchange:
    """A follow-up question made to stand alone, as chat engines ask before they search."""
    rng = source.rng
    made = []
    for _ in range(turns):
        *before, last = facts_about(source, max(2, min(facts, 4)))
        history = "\n".join(f"user: {f.question}\nassistant: {f.answer}" for f in before)
        text = rng.choice(forms.CONDENSE).format(history=history, question=last.question)
        made.append(Turn("condense", user(text), last.question))
    return Exchange([], made)


_TALK = (
    (("Hello", "Hi", "Hello!", "Hi!", "Hey"), "Hello! How can I help you?"),
    (("Good morning", "Good morning!"), "Good morning! How can I help you?"),
    (("How are you?", "Hello, how are you?"), "I am fine, thank you. How can I help you?"),
    (
        ("Who are you?", "What are you?", "What is your name?"),
        "I am a pocket ensemble: three tiny models that write one text together.",
    ),
    (
        ("What can you do?", "Help", "How can you help me?"),
        "I can add and subtract, find facts in a short text, and call tools.",
    ),
    (("Thank you", "Thanks", "Thank you!", "Thanks!"), "You are welcome!"),
    (("Bye", "Goodbye", "Bye!", "Goodbye!"), "Goodbye!"),
)


def small_talk(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Greetings and questions about the ensemble; learned by heart, so never held out."""
    made = []
    for _ in range(turns):
        questions, answer = source.rng.choice(_TALK)
        made.append(Turn("small_talk", user(source.rng.choice(questions)), answer))
    return Exchange([], made)
