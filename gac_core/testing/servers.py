"""Servers that speak as SGLang, vLLM and llama.cpp do, on loopback, and misbehave when told to.

What they answer is computed by any scorer, such as one of a tiny model::

    with FakeSGLang(LocalScorer(model, "tiny")) as server:
        MemberConfig(model=folder, url=server.url, engine="sglang")

They know what `RemoteScorer` asks for, and refuse what the real ones refuse.
"""

import base64
import json
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from gac_core.members.base import Query, Scorer

_BUFFER: Final = 2**20


class RefusalError(Exception):
    """An answer that is no success.

    Args:
        status: of HTTP.
        message: what the server says.

    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeServer(ABC):
    """A server on a free port of loopback, while its `with` block lasts.

    Args:
        scorer: computes what it answers.

    Attributes:
        engine: for `MemberConfig.engine`.
        url: of the server.
        scorer: may be another one, as if another model had been started.
        context_size: the longest sequence that it reads and writes.
        delay: seconds that every answer takes longer.
        drops: the number of requests whose connection is cut without an answer.
        failures: the number of requests that are answered with `status`.
        status: of those.
        api_key: without which it refuses every request; None if it wants none.
        spoil: changes what it answers, or None.
        calls: path and body of every request that was read.
        sent: bytes of all answers.

    """

    engine: ClassVar[str]

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.context_size = scorer.context_size or 4096
        self.delay = 0.0
        self.drops = 0
        self.failures = 0
        self.status = 500
        self.api_key: str | None = None
        self.spoil: Callable[[Any], Any] | None = None
        self.calls: list[tuple[str, Any]] = []
        self.sent = 0
        self._lock = threading.Lock()
        self._port = 0
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at the same port as before."""
        self._http = _Http(("127.0.0.1", self._port), self)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Cut all connections and listen no more."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._http = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.scorer.clear()

    # ------------------------------------------------ what kinds of servers differ in

    @abstractmethod
    def answer(self, path: str, body: Any) -> Any:
        """The answer to a request, as JSON.

        Args:
            path: of the request.
            body: of a POST; None for GET.

        Raises:
            RefusalError: there is nothing there, or the request is refused.

        """

    def card(self) -> dict[str, Any]:
        """What `/v1/models` says of the model."""
        return {"id": self.scorer.name, "object": "model", "max_model_len": self.context_size}

    # ------------------------------------------------ computing

    def logprobs(self, prompts: Sequence[Sequence[int]], last: Sequence[int]) -> list[torch.Tensor]:
        """The logprobs after the last positions of each prompt, (last, vocab_size) each."""
        for ids in prompts:
            if len(ids) >= self.context_size:
                raise RefusalError(
                    400, f"{len(ids)} tokens exceed the context of {self.context_size}"
                )
        queries = [Query(list(ids), n) for ids, n in zip(prompts, last, strict=True)]
        slots = list(range(len(queries)))  # each continues the sequence that was there before
        with self._lock:
            scored = self.scorer.score(queries, slots)
        return [one.logits.log_softmax(-1) for one in scored]

    def top(self, logprobs: torch.Tensor, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """The most probable ids and their logprobs, (..., count) each."""
        values, ids = logprobs.topk(count)
        return ids.numpy(), values.numpy()


class FakeSGLang(FakeServer):
    """As SGLang's `/generate`.

    Args:
        scorer: computes what it answers.
        binary: whether it can answer in binary; else it answers in lists.

    """

    engine = "sglang"

    def __init__(self, scorer: Scorer, *, binary: bool = True) -> None:
        super().__init__(scorer)
        self.binary = binary

    def answer(self, path: str, body: Any) -> Any:
        """See `FakeServer`."""
        if (path, body) == ("/v1/models", None):
            return {"object": "list", "data": [self.card()]}
        if path != "/generate" or body is None:
            raise RefusalError(404, "Not Found")
        prompts, starts = body["input_ids"], body["logprob_start_len"]
        count = body["top_logprobs_num"]
        if count > self.scorer.vocab_size:
            raise RefusalError(500, "selected index k out of range")
        # The logprobs of a prompt are those before its ids, but for the first one's.
        read = [ids[:-1] for ids in prompts]
        last = [len(ids) - start for ids, start in zip(read, starts, strict=True)]
        return [
            {"text": "", "meta_info": self._meta(body, *self.top(rows, count))}
            for rows in self.logprobs(read, last)
        ]

    def _meta(self, body: Any, ids: NDArray[Any], values: NDArray[Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {"output_top_logprobs": []}
        if not (self.binary and body.get("return_flat_raw_top_logprobs_b64")):
            rows = [
                [[value, i, None] for value, i in zip(*row, strict=True)]
                for row in zip(values.tolist(), ids.tolist(), strict=True)
            ]
            return meta | {"input_top_logprobs": [None, *rows]}
        meta["input_top_logprobs_null_prefix"] = 1
        meta["input_top_logprobs_shape"] = list(ids.shape)
        for key, array, dtype in (("val", values, np.float32), ("idx", ids, np.int32)):
            data = base64.b64encode(array.astype(dtype).tobytes()).decode()
            meta[f"input_top_logprobs_{key}_flat_b64"] = data
            meta[f"input_top_logprobs_{key}_flat_b64_dtype"] = np.dtype(dtype).name
        return meta


class FakeVLLM(FakeServer):
    """As vLLM's `/v1/completions`.

    Args:
        scorer: computes what it answers.
        max_logprobs: how many it gives at most; -1 for all.

    """

    engine = "vllm"

    def __init__(self, scorer: Scorer, max_logprobs: int = 20) -> None:
        super().__init__(scorer)
        self.max_logprobs = max_logprobs

    def answer(self, path: str, body: Any) -> Any:
        """See `FakeServer`."""
        if (path, body) == ("/v1/models", None):
            return {"object": "list", "data": [self.card()]}
        if path != "/v1/completions" or body is None:
            raise RefusalError(404, "Not Found")
        if body["model"] != self.scorer.name:
            raise RefusalError(404, f"The model `{body['model']}` does not exist.")
        rows = self.scorer.vocab_size
        most = rows if self.max_logprobs == -1 else self.max_logprobs
        if body["logprobs"] > most:
            raise RefusalError(
                400,
                f"Requested sample logprobs of {body['logprobs']}, which is greater than max "
                f"allowed: {most}",
            )
        prompts = body["prompt"]
        found = self.logprobs(prompts, [1] * len(prompts))
        choices = [
            {"index": n, "text": "", "logprobs": self._logprobs(row[0], body["logprobs"])}
            for n, row in enumerate(found)
        ]
        return {"object": "text_completion", "choices": choices[::-1]}

    def _logprobs(self, row: torch.Tensor, count: int) -> dict[str, Any]:
        ids, values = self.top(row, count)
        named = {f"token_id:{i}": v for i, v in zip(ids.tolist(), values.tolist(), strict=True)}
        first = next(iter(named))
        return {"tokens": [first], "token_logprobs": [named[first]], "top_logprobs": [named]}


class FakeLlamaCpp(FakeServer):
    """As llama.cpp's `/completion`.

    Args:
        scorer: computes what it answers.
        speculates: whether it was started with a draft.
        shows_slots: whether it was started without --no-slots.
        partial_ids: the ids of tokens that are no whole characters.

    """

    engine = "llamacpp"

    def __init__(
        self,
        scorer: Scorer,
        *,
        speculates: bool = False,
        shows_slots: bool = True,
        partial_ids: Sequence[int] = (),
    ) -> None:
        super().__init__(scorer)
        self.speculates = speculates
        self.shows_slots = shows_slots
        self.partial_ids = frozenset(partial_ids)

    def card(self) -> dict[str, Any]:
        """What `/v1/models` says of the model."""
        meta = {"n_vocab": self.scorer.vocab_size, "n_ctx_train": self.context_size}
        return {"id": self.scorer.name, "object": "model", "meta": meta}

    def answer(self, path: str, body: Any) -> Any:
        """See `FakeServer`."""
        if (path, body) == ("/v1/models", None):
            return {"object": "list", "data": [self.card()]}
        if (path, body) == ("/slots", None):
            if not self.shows_slots:
                raise RefusalError(501, "This server does not support slots endpoint.")
            return [{"id": 0, "n_ctx": self.context_size, "speculative": self.speculates}]
        if path != "/completion" or body is None:
            raise RefusalError(404, "File Not Found")
        prompts = body["prompt"]
        found = self.logprobs(prompts, [1] * len(prompts))
        answers = [
            {"index": n, "completion_probabilities": self._written(row[0], body)}
            for n, row in enumerate(found)
        ]
        return answers if len(answers) > 1 else answers[0]

    def _written(self, row: torch.Tensor, body: Any) -> list[dict[str, Any]]:
        biased = row.clone()
        for i, bias in body.get("logit_bias", ()):
            biased[i] += bias
        chosen = int(biased.argmax())
        if chosen in self.partial_ids:  # held back until the character is whole
            return []
        ids, values = self.top(row, min(body["n_probs"], len(row)))
        entries = [
            {"id": i, "token": "", "bytes": [], "logprob": value}
            for i, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        return [{"id": chosen, "logprob": float(row[chosen]), "top_logprobs": entries}]


class _Http(ThreadingHTTPServer):
    """The listening socket, and the connections that were opened."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], fake: FakeServer) -> None:
        self.fake = fake
        self.connections: list[socket.socket] = []
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        """End all connections."""
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that are cut are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = _BUFFER  # head and body are one packet
    disable_nagle_algorithm = True  # else the last packet of several waits
    server: _Http

    def do_GET(self) -> None:
        """Answer."""
        self._reply(None)

    def do_POST(self) -> None:
        """Answer."""
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""

    def _check_key(self, key: str) -> None:
        if self.headers["Authorization"] != f"Bearer {key}":
            raise RefusalError(401, "Unauthorized")

    def _reply(self, body: Any) -> None:
        fake = self.server.fake
        fake.calls.append((self.path, body))
        if fake.drops > 0:
            fake.drops -= 1
            self.close_connection = True
            return
        status, answer = 200, None
        try:
            if fake.failures > 0:
                fake.failures -= 1
                raise RefusalError(fake.status, "told to fail")
            if fake.api_key is not None:
                self._check_key(fake.api_key)
            answer = fake.answer(self.path, body)
            if fake.spoil is not None:
                answer = fake.spoil(answer)
        except RefusalError as refusal:
            status, answer = refusal.status, {"error": {"message": str(refusal)}}
        time.sleep(fake.delay)
        data = json.dumps(answer).encode()
        fake.sent += len(data)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
