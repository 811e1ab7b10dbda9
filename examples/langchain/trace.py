"""A callback that sees every token: who decided it, and what each member would have written."""

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from gac_integrations.langchain import ChatGaC


class Trace(BaseCallbackHandler):
    """Prints the members' views of each token."""

    def on_llm_new_token(
        self,
        token: Any,
        *,
        chunk: Any = None,
        **kwargs: Any,
    ) -> None:
        """Called by LangChain as the token is made."""
        logprobs = chunk.message.response_metadata.get("logprobs", {"content": []})
        for step in logprobs["content"]:
            views = "  ".join(
                f"{m['name']} {m['top']!r} {m['top_prob']:.2f}" for m in step["members"]
            )
            agree = len({m["top"] for m in step["members"]}) == 1
            token = repr(step["token"]) if step["token"] else "<end>"
            print(f"{token:8}{'' if agree else '*':2}{views}")


llm = ChatGaC(model="pocket", logprobs=True)
answer = llm.invoke("What is 77 - 49?", config={"callbacks": [Trace()]})
print(answer.text)
