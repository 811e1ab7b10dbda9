"""`gac chat`: a conversation that the ensemble remembers."""

import sys
from typing import TYPE_CHECKING, Annotated

from gac_core.cli.option_groups import Without, flatten_groups
from gac_core.cli.options import EnsembleOptions, SamplingOptions, System, with_system
from gac_core.cli.terminal import Words, err, is_terminal, read_input
from gac_core.errors import PromptError
from gac_core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from gac_core.chat.messages import Message
    from gac_core.chat.prompt import Prompt
    from gac_core.ensemble import Ensemble


@flatten_groups
def chat(
    *,
    ensemble_options: EnsembleOptions,
    sampling_options: Annotated[SamplingOptions, Without("stop")],
    system: System = None,
) -> None:
    """Talk with an ensemble; it remembers the conversation.

    /reset begins anew, /quit or Ctrl-D leaves, Ctrl-C stops an answer.
    """
    sampling = sampling_options.build()
    with ensemble_options.load() as ensemble:
        names = ", ".join(member.name for member in ensemble.members)
        err().print(
            f"{names} write together. /reset begins anew, /quit leaves.", style="dim", markup=False
        )
        messages: list[Message] = []
        while (line := _read_line()) is not None:
            if line == "/reset":
                messages = []
                err().print("The conversation begins anew.", style="dim")
                continue
            if line.startswith("/"):
                err().print("There are /reset and /quit.", style="dim")
                continue
            asked = [*messages, {"role": "user", "content": line}]
            try:
                answer = _answer(ensemble, with_system(asked, system), sampling)
            except PromptError as error:
                err().print(f"{error}; /reset begins anew", style="red", markup=False)
                continue
            messages = [*asked, answer]


def _read_line() -> str | None:
    """The next line that is not blank; None at the end."""
    while True:
        try:
            read = f"{input('you> ')}\n" if is_terminal(sys.stdin) else read_input(whole=False)
        except (EOFError, KeyboardInterrupt):
            return None
        line = read.strip()
        if not read or line in ("/quit", "/exit"):
            return None
        if line:
            return line


def _answer(ensemble: "Ensemble", prompt: "Prompt", sampling: SamplingParams) -> "Message":
    """Show an answer; Ctrl-C stops it and keeps what was written."""
    view, steps = Words(), []
    with ensemble.stream(prompt, sampling) as stream:
        try:
            for step in stream:
                view.step(step)
                steps.append(step)
        except KeyboardInterrupt:
            err().print(" [stopped]", style="dim", end="", markup=False)
    view.end()
    thought = "".join(step.thought or "" for step in steps)
    message = {"role": "assistant", "content": "".join(step.text for step in steps)}
    return {**message, "reasoning_content": thought} if thought else message
