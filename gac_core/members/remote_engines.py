"""What three servers are asked, and what they answer: SGLang, vLLM, llama.cpp.

Each is asked for the most probable ids after some positions, by id and never by decoded text, since
different tokens can look alike. What is said here of a server was read in its code (SGLang 0.5.23,
vLLM 0.30 to 0.33, llama.cpp b11430).
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gac_core.errors import MemberError
from gac_core.members.base import Query
from gac_core.members.remote_http import Server

_TOKEN_ID: Final = "token_id:"


@dataclass(frozen=True)
class Top:
    """The ids that a server holds most probable after one position.

    Attributes:
        ids: (n,) of int64, in any order.
        logprobs: (n,) of float32.

    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]

    @classmethod
    def of(cls, ids: Any, logprobs: Any) -> "Top":
        """From anything that numpy reads."""
        return cls(np.array(ids, np.int64), np.array(logprobs, np.float32))


@dataclass(frozen=True)
class About:
    """What a server says of itself.

    Attributes:
        model: the name of its model.
        context_size: the most ids that it reads, with the one that it writes; None if unknown.
        vocab_size: its number of logits per position; None if it does not tell.

    """

    model: str = ""
    context_size: int | None = None
    vocab_size: int | None = None


class Engine(ABC):
    """How one kind of server is asked.

    Args:
        safe_id: the id of a token that is whole characters, for what a server has to write.

    Attributes:
        name: for `MemberConfig.engine`.
        path: where it is asked.
        cure_of_few: what helps if it gives fewer probabilities than it was asked for.

    """

    name: ClassVar[str]
    path: ClassVar[str]
    cure_of_few: ClassVar[str]

    def __init__(self, safe_id: int) -> None:
        self.safe_id = safe_id

    def about(self, server: Server) -> About:
        """Ask a server about itself.

        Raises:
            MemberError: it can not be a member as it was started.

        """
        card = server.get("/v1/models")["data"][0]
        limit = card.get("max_model_len")
        return About(str(card["id"]), None if limit is None else int(limit))

    @abstractmethod
    def body(self, queries: Sequence[Query], count: int, about: About) -> dict[str, Any]:
        """What to send.

        Args:
            queries: what is asked.
            count: how many of the most probable ids are wanted at each position.
            about: what the server said of itself.

        """

    @abstractmethod
    def tops(self, answer: Any, queries: Sequence[Query]) -> list[Top]:
        """What came back: for each query each of its last positions.

        Raises:
            LookupError, TypeError, ValueError: the answer has another shape.

        """


class SGLang(Engine):
    """SGLang's `/generate`, read as the logprobs of a prompt, in binary.

    The logprobs of a prompt are those before each of its ids, so one id is appended, and those from
    the position after `logprob_start_len` on are what comes after each of the last positions. They
    do not depend on temperature, as those of the output do. What precedes is read from the cache.
    """

    name = "sglang"
    path = "/generate"
    cure_of_few = "name the folder or hub name of the model itself in `model`"

    def body(self, queries: Sequence[Query], count: int, about: About) -> dict[str, Any]:  # noqa: ARG002
        """See `Engine`."""
        return {
            "input_ids": [[*query.ids, self.safe_id] for query in queries],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": [len(query.ids) - query.last for query in queries],
            "top_logprobs_num": count,
            "return_text_in_logprobs": False,
            "return_flat_raw_top_logprobs": True,
            "return_flat_raw_top_logprobs_b64": True,
        }

    def tops(self, answer: Any, queries: Sequence[Query]) -> list[Top]:
        """See `Engine`."""
        answers = answer if isinstance(answer, list) else [answer]
        tops = []
        for query, one in zip(queries, answers, strict=True):
            rows = list(_sglang_rows(one["meta_info"]))
            if len(rows) != query.last:
                raise ValueError(f"{len(rows)} positions, not {query.last}")
            tops += rows
        return tops


def _sglang_rows(meta: dict[str, Any]) -> Iterator[Top]:
    """The positions of one answer; SGLang falls back to lists where rows are no rectangle."""
    if "input_top_logprobs_val_flat_b64" in meta:
        shape = meta["input_top_logprobs_shape"]
        logprobs, ids = (
            np.frombuffer(base64.b64decode(meta[key]), np.dtype(meta[f"{key}_dtype"])).reshape(
                shape
            )
            for key in ("input_top_logprobs_val_flat_b64", "input_top_logprobs_idx_flat_b64")
        )
        yield from map(Top.of, ids, logprobs)
        return
    for row in meta["input_top_logprobs"]:
        if row is not None:  # before the first of the ids that were asked for
            yield Top.of([entry[1] for entry in row], [entry[0] for entry in row])


def _decoded(meta: dict[str, Any], key: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(meta[key]), np.dtype(meta[f"{key}_dtype"]))


class VLLM(Engine):
    """vLLM's `/v1/completions`: an id is written after each position, each a prompt of its own.

    Its cache of prefixes makes that cheap; logprobs of a prompt would go around the cache.
    """

    name = "vllm"
    path = "/v1/completions"
    cure_of_few = "start it with --max-logprobs -1"

    def body(self, queries: Sequence[Query], count: int, about: About) -> dict[str, Any]:
        """See `Engine`."""
        return {
            "model": about.model,
            "prompt": list(_prefixes(queries)),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": count,
            "return_tokens_as_token_ids": True,
        }

    def tops(self, answer: Any, queries: Sequence[Query]) -> list[Top]:
        """See `Engine`."""
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        tops = []
        for _, choice in zip(_prefixes(queries), choices, strict=True):
            (found,) = choice["logprobs"]["top_logprobs"]
            ids = [int(key.removeprefix(_TOKEN_ID)) for key in found]
            tops.append(Top.of(ids, list(found.values())))
        return tops


class LlamaCpp(Engine):
    """llama.cpp's `/completion`: one id is written after each position, as with vLLM.

    Where that id is a part of a character, the server keeps its probabilities to itself; so a bias
    has it write a whole one. What it reports is from before the bias.
    """

    name = "llamacpp"
    path = "/completion"
    cure_of_few = "name the folder or hub name of the model's own tokenizer in `model`"

    def about(self, server: Server) -> About:
        """See `Engine`; speculation is refused."""
        card = server.get("/v1/models")["data"][0]
        meta = card.get("meta") or {}
        try:
            slots = server.get("/slots")
        except MemberError as error:
            raise MemberError(
                f"{server.name} at {server.url} does not show its slots, which say whether it "
                f"speculates; start it without --no-slots ({error})"
            ) from error
        if any(slot["speculative"] for slot in slots):
            raise MemberError(
                f"{server.name} at {server.url} speculates, and then reports that all tokens it "
                "wrote ahead have probability 1; start it without a draft model and with "
                "--spec-type none"
            )
        rows = meta.get("n_vocab")
        return About(
            str(card["id"]),
            min(int(s["n_ctx"]) for s in slots),
            None if rows is None else int(rows),
        )

    def body(self, queries: Sequence[Query], count: int, about: About) -> dict[str, Any]:  # noqa: ARG002
        """See `Engine`."""
        return {
            "prompt": list(_prefixes(queries)),
            "n_predict": 1,
            "temperature": 0,
            "n_probs": count,
            "post_sampling_probs": False,
            "logit_bias": [[self.safe_id, 1000.0]],
            "cache_prompt": True,
        }

    def tops(self, answer: Any, queries: Sequence[Query]) -> list[Top]:
        """See `Engine`."""
        answers = answer if isinstance(answer, list) else [answer]
        answers = sorted(answers, key=lambda one: int(one["index"]))
        tops = []
        for _, one in zip(_prefixes(queries), answers, strict=True):
            (written,) = one["completion_probabilities"]
            found = written["top_logprobs"]
            tops.append(Top.of([e["id"] for e in found], [e["logprob"] for e in found]))
        return tops


ENGINES: Final[dict[str, type[Engine]]] = {
    engine.name: engine for engine in (SGLang, VLLM, LlamaCpp)
}


def _prefixes(queries: Sequence[Query]) -> Iterator[list[int]]:
    """The ids up to each position that is asked for."""
    for query in queries:
        ids = list(query.ids)
        for end in range(len(ids) - query.last + 1, len(ids) + 1):
            yield ids[:end]
