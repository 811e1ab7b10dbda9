"""Named fields of a text as JSON."""

import json
import random
from dataclasses import dataclass
from typing import Any

from gac_core.chat.tools import call_text, tools_text
from gac_core.pocket import forms
from gac_core.pocket.tasks.exchange import Exchange, Message, Turn, fill, system, user
from gac_core.pocket.tasks.facts import Fact, fact_about
from gac_core.pocket.words import THINGS, Source

_TITLES = ("Person", "Profile", "Record", "Entry", "Item", "Output", "Info", "Card")


@dataclass(frozen=True)
class Record:
    """A text, a schema of some of what it states, and the value that fits the schema."""

    text: str
    schema: dict[str, Any]
    value: dict[str, Any]


def record_of(source: Source) -> Record:
    """Sentences about a name, a schema for some of them, and what fits the schema."""
    rng = source.rng
    name = source.name()
    chosen: dict[str, Fact] = {}
    wanted = rng.randint(1, 4)
    while len(chosen) < wanted + rng.randint(0, 2):
        fact = fact_about(source, name)
        chosen.setdefault(fact.key, fact)
    facts = list(chosen.values())
    fields: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    if rng.random() < 0.7:
        fields["name"], properties["name"] = name, {"type": "string"}
    for fact in rng.sample(facts, wanted):
        is_number = fact.value.isdigit() and fact.value[0] != "0" and rng.random() < 0.7
        fields[fact.key] = int(fact.value) if is_number else fact.value
        properties[fact.key] = {"type": "integer" if is_number else "string"}
    sentences = [fact.statement for fact in facts]
    if rng.random() < 0.2:
        things = [source.pick(THINGS) for _ in range(rng.randint(2, 4))]
        things = list(dict.fromkeys(things))
        listed = ", ".join(things[:-1]) + (" and " if things[:-1] else "") + things[-1]
        sentences.append(f"{name} likes {listed}.")
        fields["likes"] = things
        properties["likes"] = {"type": "array", "items": {"type": "string"}}
    schema = _object(rng.choice(_TITLES), properties)
    if rng.random() < 0.25 and len(fields) > 2:
        schema = _with_last_fields_nested(rng, schema, fields)
    if rng.random() < 0.5:
        _add_titles(schema)
    if rng.random() < 0.3:  # facts about other names
        others = [fact_about(source, source.name()) for _ in range(rng.randint(1, 3))]
        sentences += [fact.statement for fact in others if fact.key not in chosen]
    rng.shuffle(sentences)
    return Record(" ".join(sentences), schema, fields)


def _object(title: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "properties": properties,
        "required": list(properties),
        "title": title,
        "type": "object",
    }


def _with_last_fields_nested(
    rng: random.Random, schema: dict[str, Any], fields: dict[str, Any]
) -> dict[str, Any]:
    """The schema with the last fields in an object of their own; `fields` is changed in place."""
    cut = rng.randint(1, len(fields) - 1)
    inner = {key: fields.pop(key) for key in list(fields)[cut:]}
    properties = dict(schema["properties"])
    kinds = {key: properties.pop(key) for key in inner}
    part = rng.choice(("details", "data", "more", "extra"))
    reference = part.capitalize()
    fields[part], properties[part] = inner, {"$ref": f"#/$defs/{reference}"}
    return {"$defs": {reference: _object(reference, kinds)}, **_object(schema["title"], properties)}


def _add_titles(schema: dict[str, Any]) -> None:
    """Give each property a title, as pydantic does; in place."""
    for each in (*schema.get("$defs", {}).values(), schema):
        each["properties"] = {
            key: kind if "$ref" in kind else {"title": key.capitalize(), **kind}
            for key, kind in each["properties"].items()
        }


_REQUESTS = ("{}", "{}", "Extract the data: {}", "Extract from this text: {}", "Text: {}")


def extraction(source: Source, turns: int, facts: int) -> Exchange:  # noqa: ARG001
    """Named fields of a short text as JSON of a shown schema."""
    rng = source.rng
    made: list[Turn] = []
    opening: list[Message] = []
    for _ in range(turns):
        record = record_of(source)
        text = rng.choice(_REQUESTS).format(record.text)
        schema = json.dumps(record.schema)
        answer = json.dumps(record.value)
        forms_now = forms.SCHEMA if not made else forms.SCHEMA[1:]
        if not made and rng.random() < 0.3:  # as the arguments of a function
            function = {"name": record.schema["title"], "parameters": record.schema}
            call = call_text(str(function["name"]), record.value)
            opening = system(tools_text([function]))
            made.append(Turn("extraction", user(text), call))
            continue
        # The long form with an example in it is rarer than the short ones.
        form = rng.choices(forms_now, [3, 3, 1][-len(forms_now) :])[0]
        *before, asked = fill(form, text=text, schema=schema)
        opening = before or opening
        made.append(Turn("extraction", asked, answer))
    return Exchange(opening, made)
