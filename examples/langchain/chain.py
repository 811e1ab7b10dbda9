"""A chain of prompt, ensemble and parser that streams its answer."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from gac_integrations.langchain import ChatGaC

prompt = ChatPromptTemplate.from_messages(
    [("system", "Answer from the context only."), ("human", "{context}\n\n{question}")]
)
chain = prompt | ChatGaC(model="pocket") | StrOutputParser()

context = "Mila lives in Rome.\nThe code of Mila is 4711.\nThe code of Tom is 1202."
for question in ("Where does Mila live?", "What is the code of Tom?"):
    for piece in chain.stream({"context": context, "question": question}):
        print(piece, end="", flush=True)
    print()
