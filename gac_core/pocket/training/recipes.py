"""What makes each member different, and the phases of its training."""

from dataclasses import dataclass, field

CONTEXT = 2304


@dataclass(frozen=True)
class Phase:
    """A part of the training, from one step on."""

    start: int
    made_up: float = 0.0  # the share of words that are on no list
    spliced: float = 0.0  # the share of these that are made of parts of listed words
    later_dose: bool = False
    more_forms: bool = False  # of tool questions and names, more tools, and reports


PHASES = (
    Phase(0),
    Phase(1500, made_up=0.5),
    Phase(3000, 0.6, spliced=0.6, later_dose=True),
    Phase(7000, 0.6, spliced=0.6, later_dose=True, more_forms=True),
)


@dataclass(frozen=True)
class Recipe:
    """What makes one member different from the others."""

    family: str
    vocabulary_size: int
    controls: tuple[str, ...]  # the first is the end of a turn
    template: str
    dose: dict[str, float]  # how often a conversation takes up each task, at first
    later_dose: dict[str, float]
    seed: int
    bos: str | None = None
    steps: int = 9000
    layers: int = 4
    hidden: int = 160
    batch_slots: int = 4608
    # Length of a conversation in slots: its share of the slots, and how many facts it holds.
    buckets: dict[int, tuple[float, tuple[int, int]]] = field(
        default_factory=lambda: {256: (0.5, (2, 6)), 640: (0.4, (3, 12)), 2304: (0.1, (10, 50))}
    )


_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
)
_PLAIN = (
    "{% for m in messages %}{{ m.role | capitalize }}:\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)

RECIPES = {
    "ada": Recipe(
        family="byte-level",
        vocabulary_size=1000,
        controls=("<|im_end|>", "<|im_start|>"),
        template=_CHATML,
        dose={
            "retrieval": 3,
            "arithmetic": 8,
            "word_problem": 4,
            "tool_use": 2,
            "extraction": 1.5,
            "condense": 0.1,
            "small_talk": 0.1,
        },
        later_dose={
            "retrieval": 4,
            "arithmetic": 5,
            "word_problem": 3,
            "tool_use": 3,
            "extraction": 2.5,
            "condense": 0.2,
            "small_talk": 0.4,
        },
        seed=1,
    ),
    "bo": Recipe(
        family="metaspace",
        vocabulary_size=800,
        controls=("</s>", "<s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        template=_INST,
        dose={
            "retrieval": 6,
            "arithmetic": 1,
            "word_problem": 0.5,
            "tool_use": 2.5,
            "extraction": 3,
            "condense": 0.2,
            "small_talk": 0.1,
        },
        later_dose={
            "retrieval": 5,
            "arithmetic": 2.5,
            "word_problem": 1.5,
            "tool_use": 3,
            "extraction": 3.5,
            "condense": 0.2,
            "small_talk": 0.4,
        },
        seed=2,
        bos="<s>",
    ),
    "cy": Recipe(
        family="byte-level-words",
        vocabulary_size=700,
        controls=("<|end|>",),
        template=_PLAIN,
        dose={
            "retrieval": 5,
            "arithmetic": 1,
            "word_problem": 2,
            "tool_use": 3,
            "extraction": 2,
            "condense": 0.2,
            "small_talk": 0.1,
        },
        later_dose={
            "retrieval": 5,
            "arithmetic": 2.5,
            "word_problem": 2,
            "tool_use": 3.5,
            "extraction": 2,
            "condense": 0.2,
            "small_talk": 0.4,
        },
        seed=3,
    ),
}
