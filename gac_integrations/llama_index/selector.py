"""The selector: which of some query engines or tools a question is for."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core import PromptTemplate, Settings
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.schema import QueryBundle
from llama_index.core.tools.types import ToolMetadata

from gac_core import Choice, ConfigError
from gac_core.decisions import CONTENT_FREE
from gac_integrations.llama_index.errors import translated_errors
from gac_integrations.llama_index.llm import GaCLLM
from gac_integrations.shared.deadline import Deadline
from gac_integrations.shared.deciding import Decision, adecided, decided

PROMPT = (
    "Some choices are given below, in a numbered list of 1 to {num_choices}.\n"
    "{context_list}\n\n"
    "Using only the choices above and not prior knowledge, answer with the number of the choice "
    "that is most relevant to the question: '{query_str}'"
)


class GaCSelector(BaseSelector):
    """A selector that scores all choices at once instead of writing JSON about them.

    It goes where `LLMSingleSelector` goes, and costs one pass of each member after the prompt. The
    choices are numbered, each member says how probable it holds each number, and the fusion rule
    pools that (`Ensemble.choose`). A selection's `reason` has the probabilities.

    Args:
        llm: whose ensemble, timeout and system prompt it uses; by default `Settings.llm`.
        max_outputs: how many choices may be selected.
        min_prob: of those beside the most probable one; nothing less probable is selected.
        prior: whether what members like to choose whatever is asked (such as the first choice) is
            taken off (https://arxiv.org/abs/2102.09690). It takes four prompts instead of one.
        temperature: see `Ensemble.choose`.
        prompt: with {num_choices}, {context_list} and {query_str}; the answer is a number.

    Raises:
        GaCRequestError: an option is wrong, or there is no choice; when it selects.

    Example:
        >>> from gac_integrations.llama_index import GaCLLM, GaCSelector
        >>> selector = GaCSelector(GaCLLM(model="pocket"), max_outputs=2, min_prob=0.0)
        >>> chosen = selector.select(["Sums.", "The weather in Rome."], "What is 17 + 25?")
        >>> sorted(chosen.inds)
        [0, 1]

    """

    def __init__(
        self,
        llm: GaCLLM | None = None,
        *,
        max_outputs: int = 1,
        min_prob: float = 0.2,
        prior: bool = False,
        temperature: float | Mapping[str, float] = 1.0,
        prompt: BasePromptTemplate | str = PROMPT,
    ) -> None:
        with translated_errors():
            given = llm or Settings.llm
            if not isinstance(given, GaCLLM):
                raise ConfigError(f"a GaCSelector needs a GaCLLM, not {type(given).__name__}")
            if max_outputs < 1 or not 0 <= min_prob <= 1:
                raise ConfigError("max_outputs must be 1 or more, and min_prob within 0 and 1")
        self._llm = given
        self._max_outputs = max_outputs
        self._min_prob = min_prob
        self._prior = prior
        self._options = {"temperature": temperature}
        self._prompt = PromptTemplate(prompt) if isinstance(prompt, str) else prompt

    def _get_prompts(self) -> dict[str, Any]:
        return {"prompt": self._prompt}

    def _update_prompts(self, prompts: dict[str, BasePromptTemplate]) -> None:
        self._prompt = prompts.get("prompt", self._prompt)

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        with translated_errors():
            asked = self._decisions(choices, query)
            deadline = Deadline(self._llm.timeout)
            return self._result(decided(self._llm._ensemble, asked, self._options, deadline))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        with translated_errors():
            asked = self._decisions(choices, query)
            deadline = Deadline(self._llm.timeout)
            return self._result(await adecided(self._llm._ensemble, asked, self._options, deadline))

    def _decisions(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> list[Decision]:
        """What has to be decided; nothing where there is one choice."""
        if not choices:
            raise ConfigError("there is nothing to select from; give one choice or more")
        if len(choices) == 1:
            return []
        listed = [" ".join(choice.description.split()) for choice in choices]
        numbered = "\n\n".join(f"({n}) {text}" for n, text in enumerate(listed, 1))

        def chat(question: str) -> list[dict[str, str]]:
            text = self._prompt.format(
                num_choices=len(choices), context_list=numbered, query_str=question
            )
            system = self._llm.system_prompt
            first = [] if not system else [{"role": "system", "content": system}]
            return [*first, {"role": "user", "content": text}]

        labels = [str(n) for n in range(1, len(choices) + 1)]
        prior = [chat(text) for text in CONTENT_FREE] if self._prior else False
        return [Decision(chat(query.query_str), labels, prior)]

    def _result(self, found: Sequence[Choice]) -> SelectorResult:
        if not found:
            return SelectorResult(selections=[SingleSelection(index=0, reason="the only choice")])
        (choice,) = found
        ranked = sorted(range(len(choice.probs)), key=lambda n: -choice.probs[n])
        chosen = [
            n
            for n in ranked[: self._max_outputs]
            if n == ranked[0] or choice.probs[n] >= self._min_prob
        ]
        return SelectorResult(
            selections=[SingleSelection(index=n, reason=_reason(choice, n)) for n in chosen]
        )


def _reason(choice: Choice, index: int) -> str:
    """How probable all members together, and each of them, hold a choice."""
    own = ", ".join(f"{member.name} {member.probs[index]:.2f}" for member in choice.members)
    return f"probability {choice.probs[index]:.2f} ({own})"
