"""The selector of LlamaIndex: all choices scored at once, in a router and alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import MockEmbedding, PromptTemplate, Settings
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import CustomQueryEngine, RouterQueryEngine
from llama_index.core.response_synthesizers import TreeSummarize
from llama_index.core.tools import QueryEngineTool, ToolMetadata

from gac_core import Choice, Ensemble
from gac_integrations.llama_index import (
    GaCContextOverflowError,
    GaCLLM,
    GaCRequestError,
    GaCSelector,
)
from gac_integrations.llama_index.selector import PROMPT
from gac_integrations.shared.errors import DeadlineError
from tests.fakes import assert_rests, forwards_of, make

# LlamaIndex's own calls what pydantic calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("own_loop"),
]

CHOICES = ["What the  weather\nis.", "Sums.", "Names of people."]
LISTED = "(1) What the weather is.\n\n(2) Sums.\n\n(3) Names of people."
QUESTIONS = ("What is 1 + 2?", "Who is Mila?", "Hello", "Is it sunny?", "Paris", "a", "Berlin?")


@pytest.fixture
def ensemble() -> Iterator[Ensemble]:
    with make(["chatml", "tiktoken"]) as ensemble:
        yield ensemble


@pytest.fixture
def llm(ensemble: Ensemble) -> GaCLLM:
    return GaCLLM(ensemble=ensemble)


def choice_for(ensemble: Ensemble, question: str, **options: Any) -> Choice:
    """What the ensemble chooses among the numbers."""

    def chat(text: str) -> list[dict[str, str]]:
        prompt = PROMPT.format(num_choices=3, context_list=LISTED, query_str=text)
        return [{"role": "user", "content": prompt}]

    if options.pop("prior", False):
        options["prior"] = [chat(text) for text in ("N/A", "[MASK]", "")]
    return ensemble.choose(chat(question), ["1", "2", "3"], **options)


@pytest.mark.parametrize("options", [{}, {"prior": True}, {"temperature": 4.0}], ids=str)
def test_it_selects_what_is_most_probable(
    llm: GaCLLM, ensemble: Ensemble, options: dict[str, Any]
) -> None:
    selector = GaCSelector(llm, **options)
    for question in QUESTIONS:
        want = choice_for(ensemble, question, **options)
        found = selector.select(CHOICES, question)
        assert found.ind == int(want.label) - 1
        own = ", ".join(f"{m.name} {max(m.probs):.2f}" for m in want.members)
        assert found.reason.startswith(f"probability {want.prob:.2f} (chatml-0 ")
        assert found.reason.count("tiktoken-1 ") == 1
        if len({want.label_of(m) for m in want.members}) == 1:
            assert found.reason == f"probability {want.prob:.2f} ({own})"


async def test_several_are_selected_where_several_are_probable(
    llm: GaCLLM, ensemble: Ensemble
) -> None:
    flat = GaCSelector(llm, max_outputs=2, min_prob=0.2, temperature=1000.0)
    found = await flat.aselect(CHOICES, "Hello")
    probs = choice_for(ensemble, "Hello", temperature=1000.0).probs
    assert found.inds == sorted(range(3), key=lambda n: -probs[n])[:2]
    strict = GaCSelector(llm, max_outputs=3, min_prob=1.0, temperature=1000.0)
    assert (await strict.aselect(CHOICES, "Hello")).inds == found.inds[:1]
    assert_rests(ensemble)


class Engine(CustomQueryEngine):
    """A query engine that says its name."""

    name: str

    def custom_query(self, query_str: str) -> Response:
        return Response(f"{self.name}: {query_str}")


def router(selector: GaCSelector) -> RouterQueryEngine:
    tools = [
        QueryEngineTool(
            query_engine=Engine(name=f"engine {n}"),
            metadata=ToolMetadata(name=f"tool_{n}", description=text),
        )
        for n, text in enumerate(CHOICES)
    ]
    summarizer = TreeSummarize(llm=MockLLM())
    return RouterQueryEngine(selector, tools, llm=MockLLM(), summarizer=summarizer)


async def test_a_router_takes_it(llm: GaCLLM, ensemble: Ensemble) -> None:
    selector = GaCSelector(llm)
    chosen = set()
    for question in QUESTIONS:
        best = int(choice_for(ensemble, question).label) - 1
        chosen.add(best)
        for response in (
            router(selector).query(question),
            await router(selector).aquery(question),
        ):
            assert str(response) == f"engine {best}: {question}"
            assert response.metadata is not None
            assert response.metadata["selector_result"].ind == best
    assert len(chosen) > 1  # the question decides
    both = router(GaCSelector(llm, max_outputs=2, min_prob=0.0))
    text = str(both.query("Hello"))
    assert "engine" in text
    assert text.count("Hello") >= 2


def test_prompts_can_be_seen_and_changed(llm: GaCLLM, ensemble: Ensemble) -> None:
    selector = GaCSelector(llm)
    assert list(selector.get_prompts()) == ["prompt"]
    assert "selector:prompt" in router(selector).get_prompts()
    own = PromptTemplate("{context_list} {query_str} of {num_choices}?")
    selector.update_prompts({"prompt": own})
    chat = [{"role": "user", "content": f"{LISTED} Hello of 3?"}]
    want = ensemble.choose(chat, ["1", "2", "3"])
    assert selector.select(CHOICES, "Hello").ind == int(want.label) - 1
    spoken = GaCLLM(ensemble=ensemble, system_prompt="Be quick.")
    said = GaCSelector(spoken, prompt=own).select(CHOICES, "Hello")
    want = ensemble.choose([{"role": "system", "content": "Be quick."}, *chat], ["1", "2", "3"])
    assert said.reason.startswith(f"probability {want.prob:.2f}")


def test_one_choice_is_taken_unasked_and_none_refused(llm: GaCLLM, ensemble: Ensemble) -> None:
    assert GaCSelector(llm).select(["Sums."], "Hello").ind == 0
    assert forwards_of(ensemble) == 0
    with pytest.raises(GaCRequestError, match="nothing to select from"):
        GaCSelector(llm).select([], "Hello")


def test_errors_are_told(llm: GaCLLM, ensemble: Ensemble) -> None:
    for options in ({"max_outputs": 0}, {"min_prob": 1.5}):
        with pytest.raises(GaCRequestError, match="max_outputs must be 1 or more, and min_prob"):
            GaCSelector(llm, **options)
    with pytest.raises(GaCRequestError, match="temperature"):
        GaCSelector(llm, temperature=0.0).select(CHOICES, "Hello")
    with pytest.raises(GaCContextOverflowError):
        GaCSelector(llm).select(CHOICES, "xq " * 600)
    with pytest.raises(GaCRequestError, match="needs a GaCLLM, not MockLLM"):
        GaCSelector(MockLLM())  # type: ignore[arg-type]
    hasty = GaCLLM(ensemble=ensemble, timeout=1e-9)
    with pytest.raises(DeadlineError):
        GaCSelector(hasty).select(CHOICES, "Hello")


def test_the_llm_of_the_settings_is_taken(
    llm: GaCLLM, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", llm)
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=2))
    found = GaCSelector().select(CHOICES, "Hello")
    assert found.ind == int(choice_for(ensemble, "Hello").label) - 1
