"""A chat engine with a memory, over a text it was given."""

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer

from gac_integrations.llama_index import GaCLLM

llm = GaCLLM(model="pocket")
engine = SimpleChatEngine.from_defaults(
    llm=llm,
    memory=ChatMemoryBuffer.from_defaults(token_limit=1500, tokenizer_fn=llm.token_ids),
    system_prompt=(
        "Answer the question based only on this context:\n"
        "Mila lives in Rome.\nThe code of Mila is 4711.\nThe best friend of Mila is Tom."
    ),
)
for question in ("Where does Mila live?", "Who is the best friend of Mila?"):
    for piece in engine.stream_chat(question).response_gen:
        print(piece, end="", flush=True)
    print()
print(f"{len(engine.chat_history)} messages remembered")
