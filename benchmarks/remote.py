"""What members cost that are servers: bytes and time of their answers, and steps a second.

``python -m benchmarks.remote [--json] [--items 8]``

`answers`: one position of a vocabulary of 150,000 over loopback, with all probabilities and with
the likeliest, as three kinds of servers give them. `ms` is from asking to logits, with the fake
server that computes in the same process; `client_ms` is what of it this library spends on reading.

`steps`: the embedded members behind servers that answer later by a delay, which stands for a
server's forward pass and the network. Steps a second of one request at a time; calls of servers a
step; and waits a step, which are how often a step has to wait for servers, for several at the same
time perhaps. In `steps_first_here` the first member, the primary, computes in this process.

`second_asks`: how many of the queries have to be asked again where the likeliest tokens only are
given, in space tokens.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gac_core import Ask, Ensemble, Query, Scored, ScorerStats, pocket
from gac_core.decoding.run import Run
from gac_core.members.base import Answers
from gac_core.members.local import LocalScorer
from gac_core.members.remote import RemoteScorer
from gac_core.pocket import tasks
from gac_core.testing import FakeLlamaCpp, FakeServer, FakeSGLang, FakeVLLM

ROWS = 150_000
TURNS = 7
SEED = 7  # of the questions
DELAYS = (0, 5, 30)  # milliseconds
METHODS: Final[dict[str, dict[str, Any]]] = {
    "every_step": {},
    "every_step, tokens": {"space": "tokens"},
    "cascade 0.9": {"method": "cascade", "threshold": 0.9},
    "safe": {"method": "safe"},
    "safe, tokens": {"method": "safe", "space": "tokens"},
    "draft ngrams": {"draft": "ngrams"},
    "draft by ada": {"draft": 0},
}
MEMBERS = ("ada", "bo", "cy")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--items", type=int, default=8, help="questions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {
        "answers": of_answers(ROWS),
        "second_asks": of_second_asks(options.items),
        "steps": of_steps(options.items),
        "steps_first_here": of_steps(options.items, here=1),
    }
    if options.json:
        print(json.dumps(figures, indent=1))
        return
    for what, rows in figures.items():
        print(what)
        for row in rows:
            shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
            print("  " + "; ".join(shown))


# ------------------------------------------------ answers


class Noise:
    """A `Scorer` that gives random logits, at no cost; see there for the attributes."""

    def __init__(self, rows: int) -> None:
        self.name = "noise"
        self.vocab_size = rows
        self.hidden_size = 0
        self.context_size: int | None = None
        self.device = torch.device("cpu")
        self.place: Hashable = "noise"
        self.stats = ScorerStats()
        self._logits = 3 * torch.randn(1, rows, generator=torch.Generator().manual_seed(0))

    def score(
        self,
        queries: Sequence[Query],
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002
    ) -> list[Scored]:
        """See `Scorer`."""
        return [Scored(self._logits.expand(query.last, -1)) for query in queries]

    def drop(self, keys: Iterable[Hashable]) -> None:
        """See `Scorer`; nothing is kept."""

    def clear(self) -> None:
        """See `Scorer`; nothing is kept."""


def of_answers(rows: int, turns: int = TURNS) -> list[dict[str, Any]]:
    """Bytes and milliseconds of one position, by engine and number of probabilities."""
    noise = Noise(rows)
    figures = []
    for server in (FakeSGLang(noise), FakeVLLM(noise, max_logprobs=-1), FakeLlamaCpp(noise)):
        with server:
            for top_k in ("all", 1000, 100, 20):
                asked = of_one(server, top_k, turns)
                figures.append({"engine": server.engine, "top_k": top_k, **asked})
    return figures


def of_one(server: FakeServer, top_k: Any, turns: int) -> dict[str, Any]:
    """What one position costs."""
    probe = [1, 2, 3, 4, 5]
    rows = server.scorer.vocab_size
    scorer = RemoteScorer(
        server.url, server.engine, "noise", probe=probe, vocab_size=rows, top_k=top_k
    )
    query = Query(probe)
    times, reading = [], []
    for _ in range(turns):
        before = server.sent
        began = time.perf_counter()
        scorer.score([query])
        times.append(time.perf_counter() - began)
        size = server.sent - before
    path, body = server.calls[-1]
    answer = json.dumps(server.answer(path, body))
    for _ in range(turns):
        began = time.perf_counter()
        scorer.scored(scorer.engine.tops(json.loads(answer), [query]))
        reading.append(time.perf_counter() - began)
    scorer.clear()
    return {
        "kilobytes": size / 1000,
        "ms": 1000 * statistics.median(times),
        "client_ms": 1000 * statistics.median(reading),
    }


# ------------------------------------------------ second asks


def of_second_asks(items: int) -> list[dict[str, Any]]:
    """The share of queries that are asked again, by method and number of tokens that are given."""
    prompts = [
        item.messages
        for task in ("retrieval", "arithmetic")
        for item in tasks.heldout(task, items, SEED)
    ]
    figures = []
    for method in ("every_step", "cascade"):
        options: dict[str, Any] = {"method": method, "space": "tokens", "fusion": "mean"}
        with Ensemble.pocket(**options) as ensemble:
            texts = [output.text for output in ensemble.batch(prompts, max_new_tokens=40)]
        for top_k in (5, 20, 100):
            with behind_servers(0.0, options, top_k) as ensemble:
                outputs = ensemble.batch(prompts, max_new_tokens=40)
                stats = [member.scorer.stats for member in ensemble.members]
            second = sum(one.second_asks for one in stats)
            share = second / (sum(one.queries for one in stats) - second)
            same = [output.text for output in outputs] == texts
            figures.append({"method": method, "top_k": top_k, "share": share, "same_texts": same})
    return figures


# ------------------------------------------------ steps


def of_steps(
    items: int,
    delays: Sequence[int] = DELAYS,
    methods: dict[str, dict[str, Any]] = METHODS,
    here: int = 0,
) -> list[dict[str, Any]]:
    """Steps a second, calls and waits a step, by method and delay; the first `here` are local."""
    prompts = [item.messages for item in tasks.heldout("retrieval", items, SEED)]
    figures = []
    for name, options in methods.items():
        row: dict[str, Any] = {"method": name}
        with Ensemble.pocket(**options) as ensemble:
            row["steps_per_s_here"], _, _, texts = of_questions(ensemble, prompts)
        same = True
        for delay in delays:
            print(f"{name}, {delay} ms", file=sys.stderr, flush=True)
            with behind_servers(delay / 1000, options, here=here) as ensemble:
                rate, calls, waits, there = of_questions(ensemble, prompts)
            row[f"steps_per_s_{delay}ms"] = rate
            row |= {"calls_per_step": calls, "waits_per_step": waits}
            same = same and there == texts
        figures.append({**row, "same_texts": same})
    return figures


def of_questions(
    ensemble: Ensemble, prompts: Sequence[Any]
) -> tuple[float, float, float, list[str]]:
    """Steps a second, calls a step, waits a step, and the answers."""
    ensemble.generate(prompts[0], max_new_tokens=2)  # warms up
    before = calls_of(ensemble)
    began = time.perf_counter()
    with counted_waits(servers_of(ensemble)) as waits:
        outputs = [ensemble.generate(prompt, max_new_tokens=40) for prompt in prompts]
    seconds = time.perf_counter() - began
    steps = sum(output.usage.steps for output in outputs)
    texts = [output.text for output in outputs]
    return steps / seconds, (calls_of(ensemble) - before) / steps, len(waits) / steps, texts


@contextmanager
def counted_waits(servers: frozenset[int]) -> Iterator[list[None]]:
    """An item for each ask that some of these members answered meanwhile."""
    waits: list[None] = []
    plain = Run.resume

    def resume(run: Run, answers: Answers | None = None) -> Ask | None:
        if answers is not None and servers & answers.keys():
            waits.append(None)
        return plain(run, answers)

    with patch.object(Run, "resume", resume):
        yield waits


def servers_of(ensemble: Ensemble) -> frozenset[int]:
    """The members that are servers."""
    members = enumerate(ensemble.members)
    return frozenset(m for m, member in members if isinstance(member.scorer, RemoteScorer))


def calls_of(ensemble: Ensemble) -> int:
    """Calls of servers so far."""
    return sum(ensemble.members[m].scorer.stats.forwards for m in servers_of(ensemble))


@contextmanager
def behind_servers(
    delay: float, options: dict[str, Any], top_k: Any = "all", here: int = 0
) -> Iterator[Ensemble]:
    """The embedded members, each but the first ones behind a server of its own."""
    with ExitStack() as stack:
        pairs: list[Any] = []
        for name in MEMBERS:
            folder = pocket.folder(name)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
            if len(pairs) < here:
                pairs.append((model, tokenizer))
                continue
            server = stack.enter_context(FakeSGLang(LocalScorer(model, name)))
            scorer = RemoteScorer(
                server.url,
                "sglang",
                name,
                probe=tokenizer("The quick brown fox", add_special_tokens=False).input_ids,
                vocab_size=server.scorer.vocab_size,
                top_k=top_k,
                end_ids=[tokenizer.eos_token_id],
            )
            server.delay = delay
            pairs.append((scorer, tokenizer))
        yield stack.enter_context(Ensemble.from_models(pairs, names=MEMBERS, **options))


if __name__ == "__main__":
    main()
