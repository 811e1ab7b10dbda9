"""The decision model of LangChain: typed questions, answered with pooled probabilities."""

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

decisions = pytest.importorskip("langchain_core.decisions", reason="langchain-core before 1.8")

from langchain_core.callbacks import BaseCallbackHandler  # noqa: E402
from langchain_core.exceptions import ModelTimeoutError  # noqa: E402
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage  # noqa: E402
from langchain_core.runnables import ConfigurableField  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from gac_core import Ensemble, EnsembleConfig, pocket  # noqa: E402
from gac_integrations.langchain import (  # noqa: E402
    GaCContextOverflowError,
    GaCDecisions,
    GaCInvalidRequestError,
    GaCModelError,
)
from tests.fakes import assert_rests, forwards_of, make  # noqa: E402

Noul, Choice, Score, Box = decisions.Noul, decisions.Choice, decisions.Score, decisions.Box
STATE = "Tom lives in Oslo. Mila lives in Rome."
HOMES = {"Mila lives in Oslo.": None, "Mila lives in Rome.": None}
WHERE = Choice(instructions="Where does Mila live?", criteria=HOMES)


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    with make(["chatml", "tiktoken"]) as ensemble:
        yield ensemble


def asked(model: GaCDecisions, state: Any, **questions: Any) -> Any:
    return model.invoke({"state": state, "questions": questions})


def test_each_question_is_the_choice_it_stands_for(ensemble: Ensemble) -> None:
    model = GaCDecisions(ensemble=ensemble, temperature={"chatml-0": 3.0}, length="bytes")
    noul = Noul(instructions="Is it so?", criteria={"true": "It is.", "false": {"not": 1}})
    team = Choice(instructions="Who?", criteria={"billing": "Money.", "technical": None})
    score = Score(instructions=["How", "bad?"], criteria=["calm", {"level": "so so"}, "angry"])
    response = asked(model, "Hello world", noul=noul, team=team, score=score)
    want = {
        "noul": (["yes", "no"], 'yes: It is.\nno: {"not": 1}', "Is it so?"),
        "team": (["billing", "technical"], "billing: Money.", "Who?"),
        "score": (["0", "1", "2"], '0: calm\n1: {"level": "so so"}\n2: angry', '["How", "bad?"]'),
    }
    found = {}
    for name, (labels, meanings, instructions) in want.items():
        form = f"Answer with one of these: {', '.join(labels)}\n{meanings}"
        chat = [
            {"role": "system", "content": form},
            {"role": "user", "content": f"Hello world\n\n{instructions}"},
        ]
        found[name] = ensemble.choose(chat, labels, temperature={"chatml-0": 3.0}, length="bytes")
    assert response.nouls["noul"].noul == pytest.approx(found["noul"].probs[0])
    choice = response.choices["team"]
    assert choice.probabilities == pytest.approx(found["team"].by_label)
    assert choice.choice == found["team"].label
    assert choice.confidence == pytest.approx(found["team"].prob)
    level = response.scores["score"]
    assert list(level.probabilities) == [0, 1, 2]
    assert list(level.probabilities.values()) == pytest.approx(found["score"].probs)
    assert level.score == pytest.approx(found["score"].probs[1] + 2 * found["score"].probs[2])
    assert level.confidence == pytest.approx(found["score"].prob)
    assert level.legend == {0: "calm", 1: {"level": "so so"}, 2: "angry"}
    assert list(response.answers) == ["noul", "team", "score"]
    assert response.model == "chatml-0+tiktoken-1"
    tokens = sum(own.usage.prompt_tokens for own in found.values())
    assert response.usage == {
        "input_tokens": tokens,
        "output_tokens": 0,
        "total_tokens": tokens,
    }


def test_a_prior_is_asked_with_nothing_in_the_place_of_the_state(ensemble: Ensemble) -> None:
    model = GaCDecisions(ensemble=ensemble, prior=True)
    found = asked(model, STATE, q=WHERE).choices["q"]
    form = "Answer with one of these: Mila lives in Oslo., Mila lives in Rome."
    chats = [
        [
            {"role": "system", "content": form},
            {"role": "user", "content": f"{state}\n\nWhere does Mila live?"},
        ]
        for state in (STATE, "N/A", "[MASK]", "")
    ]
    want = ensemble.choose(chats[0], list(HOMES), prior=chats[1:])
    assert found.probabilities == pytest.approx(want.by_label)


def test_the_pocket_ensemble_decides() -> None:
    model = GaCDecisions(model="pocket", prior=True)
    response = asked(model, STATE, q=WHERE)
    assert response.choices["q"].choice == "Mila lives in Rome."
    assert response.model == "pocket"
    config = EnsembleConfig.of({"members": pocket.members()})
    other = GaCDecisions(config=config, prior=True)
    assert asked(other, STATE, q=WHERE).model == "ada+bo+cy"
    assert asked(other, STATE, q=WHERE).answers == response.answers


STATES: list[tuple[Any, str]] = [
    ("Hello", "Hello"),
    (HumanMessage("Hello"), "user: Hello"),
    (
        [SystemMessage("Be kind."), HumanMessage("Hello", name="Tom"), AIMessage("Hi")],
        "system: Be kind.\nuser: Tom: Hello\nassistant: Hi",
    ),
    ({"a": [1, None, True, "é"]}, '{"a": [1, null, true, "é"]}'),
    (
        {"chat": [HumanMessage("Hello")], "n": 1},
        '{"chat": [{"role": "user", "content": "Hello"}], "n": 1}',
    ),
    ([], "[]"),
    ({"type": "image"}, '{"type": "image"}'),  # a word, and no picture
]


@pytest.mark.parametrize(("state", "text"), STATES, ids=[text[:12] for _, text in STATES])
def test_states_are_shown_as_text(ensemble: Ensemble, state: Any, text: str) -> None:
    model = GaCDecisions(ensemble=ensemble)
    question = Noul(instructions="So?")
    chat = [
        {"role": "system", "content": "Answer with one of these: yes, no"},
        {"role": "user", "content": f"{text}\n\nSo?"},
    ]
    want = ensemble.choose(chat, ["yes", "no"])
    assert asked(model, state, q=question).nouls["q"].noul == pytest.approx(want.probs[0])


IMAGE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}


@pytest.mark.parametrize(
    ("state", "question", "message"),
    [
        ("a", Box(instructions="Where?"), "type box can not be answered; these models read text"),
        ({"seen": IMAGE}, WHERE, "the state holds media of type image"),
        ([HumanMessage([IMAGE])], WHERE, "image"),
        ("a", Noul(instructions=[IMAGE]), "question 'q' holds media of type image"),
        (
            "a",
            Choice(instructions="Who?", criteria={"a": IMAGE, "b": None}),
            "question 'q' holds media of type image",
        ),
        ({"a": {1, 2}}, WHERE, "the state can not be written as JSON"),
        ("a\ud800", WHERE, "lone surrogate"),
        ("a", Choice(instructions="Who?", criteria={"": None, "b": None}), "label 0 is empty"),
    ],
)
def test_what_is_no_text_is_refused(
    ensemble: Ensemble, state: Any, question: Any, message: str
) -> None:
    with pytest.raises(GaCInvalidRequestError, match=message):
        asked(GaCDecisions(ensemble=ensemble), state, q=question)


def test_nothing_is_asked_where_there_is_one_answer(ensemble: Ensemble) -> None:
    model = GaCDecisions(ensemble=ensemble)
    only = Choice(instructions="Who?", criteria={"we": None})
    response = asked(model, "a", q=only)
    assert response.choices["q"].probabilities == {"we": 1.0}
    assert response.usage["input_tokens"] == forwards_of(ensemble) == 0
    with pytest.raises(GaCInvalidRequestError, match="there are no questions"):
        asked(model, "a")


async def test_async_is_the_same_and_questions_share_passes(ensemble: Ensemble) -> None:
    model = GaCDecisions(ensemble=ensemble)
    questions = {f"q{n}": Noul(instructions=f"Is it {n}?") for n in range(6)}
    request = {"state": "Hello", "questions": questions}
    alone = 0
    for name, question in questions.items():
        asked(model, "Hello", **{name: question})
        alone = forwards_of(ensemble)
    want = model.invoke(request)  # type: ignore[arg-type]
    together = forwards_of(ensemble) - alone
    assert together < alone
    found = await model.ainvoke(request)  # type: ignore[arg-type]
    for name in questions:
        assert found.nouls[name].noul == pytest.approx(want.nouls[name].noul)
    assert_rests(ensemble)


def test_errors_are_those_of_langchain(ensemble: Ensemble) -> None:
    with pytest.raises(ModelTimeoutError):
        asked(GaCDecisions(ensemble=ensemble, timeout=1e-9), "a " * 100, q=WHERE)
    with pytest.raises(GaCContextOverflowError):
        asked(GaCDecisions(ensemble=ensemble), "xq " * 600, q=WHERE)
    with pytest.raises(GaCInvalidRequestError, match="temperature names"):
        asked(GaCDecisions(ensemble=ensemble, temperature={"x": 1.0}), "a", q=WHERE)
    with pytest.raises(ValidationError, match="top_p"):
        GaCDecisions(top_p=0.5)
    with pytest.raises(ValidationError, match="neither pocket nor a YAML file"):
        GaCDecisions(model="nothing")
    ensemble.close()
    with pytest.raises(GaCModelError):
        asked(GaCDecisions(ensemble=ensemble), "a", q=WHERE)


def test_it_is_a_runnable_like_others(ensemble: Ensemble) -> None:
    class Seen(BaseCallbackHandler):
        def __init__(self) -> None:
            self.metadata: list[Any] = []

        def on_chain_start(self, *args: Any, metadata: Any = None, **kwargs: Any) -> None:
            self.metadata.append(metadata)

        on_llm_start = on_chat_model_start = on_chain_start

    seen = Seen()
    model = GaCDecisions(model="pocket", max_retries=2, api_key="none", timeout=60)
    request: Any = {"state": STATE, "questions": {"q": WHERE}}
    model.invoke(request, {"callbacks": [seen]})
    assert seen.metadata[0]["ls_provider"] == "gac"
    assert seen.metadata[0]["ls_model_name"] == "pocket"
    first, second = model.batch([request, request])
    sure = pytest.approx(first.choices["q"].confidence, rel=1e-4)
    assert second.choices["q"].confidence == sure
    copied = pickle.loads(pickle.dumps(model))
    assert copied.timeout == 60
    assert copied.invoke(request).choices["q"].confidence == sure
    field = ConfigurableField(id="temperature")
    warm = model.configurable_fields(temperature=field).with_config(
        configurable={"temperature": 5.0}
    )
    want = GaCDecisions(model="pocket", temperature=5.0).invoke(request).choices["q"]
    assert warm.invoke(request).choices["q"].confidence == pytest.approx(want.confidence, rel=1e-4)
    assert want.confidence != sure
    with pytest.raises(GaCInvalidRequestError, match="can not be pickled"):
        pickle.dumps(GaCDecisions(ensemble=ensemble))


def test_with_an_older_langchain_everything_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = "gac_integrations.langchain"
    for name in [name for name in sys.modules if name.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    module = importlib.import_module(ours)
    assert module.ChatGaC(model="pocket").invoke("What is 1 + 2?").content == "1 + 2 = 3"
    with pytest.raises(ImportError, match=r"pip install -U 'langchain-core>=1\.8'"):
        _ = module.GaCDecisions
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing


@pytest.mark.slow
def test_importing_the_chat_model_imports_no_decisions() -> None:
    code = (
        "import sys, gac_integrations.langchain as ours; from gac_integrations.langchain import *;"
        "assert 'langchain_core.decisions' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
