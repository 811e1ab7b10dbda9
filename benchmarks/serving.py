"""How a server holds up when many ask at once.

``python -m benchmarks.serving [--clients 1 4 16] [--seconds 60] [--config ensemble.yaml] [--json]``

Starts ``gac serve`` on loopback and asks it questions of the pocket tasks, streamed, by so many
clients at a time, each of which asks again as soon as it has its answer. The clients compute in
this process, so they take time from the server where cores are few.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TextIO

import httpx

from gac_core.pocket.questions import HELDOUT

CHAT = "/v1/chat/completions"


@dataclass
class Record:
    """What the clients of one load saw.

    Attributes:
        first: seconds from asking to the first text, of each answer.
        whole: seconds from asking to the end, of each answer.
        tokens: of all answers.
        refused: requests that were not answered.

    """

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: int = 0


def main() -> None:
    """Measure each load and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--config", default="pocket", help="pocket, or a YAML file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with served(options.config) as url:
        rows = [asyncio.run(measured(url, n, options.seconds)) for n in options.clients]
    for row in rows:
        row["speedup"] = round(row["tokens_per_s"] / rows[0]["tokens_per_s"], 2)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


@contextmanager
def served(config: str) -> Iterator[str]:
    """Where a server process of the ensemble listens; it is stopped at the end."""
    command = [sys.executable, "-m", "gac_core.cli", "serve", config, "--port", "0"]
    env = {name: value for name, value in os.environ.items() if name != "GAC_API_KEYS"}
    with tempfile.TemporaryFile("a+") as log:
        process = subprocess.Popen(command, stderr=log, env=env)
        try:
            while not any(line["message"] == "ready" for line in lines_of(log)):
                if process.poll() is not None:
                    raise RuntimeError("the server has stopped; `gac serve` says why")
                time.sleep(0.1)
            yield next(line["url"] for line in lines_of(log) if "url" in line)
        finally:
            process.terminate()
            process.wait()


def lines_of(log: TextIO) -> list[dict[str, Any]]:
    """The lines of a server's log so far."""
    log.seek(0)
    return [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]


async def measured(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """What so many clients see in so many seconds."""
    items = HELDOUT.items(HELDOUT.names, 50, seed=0)
    asked = cycle([item for group in zip(*items.values(), strict=True) for item in group])
    record = Record()
    until = 0.0

    async def ask_on(client: httpx.AsyncClient) -> None:
        while time.perf_counter() < until:
            item = next(asked)
            body = {"messages": item.prompt, "max_tokens": item.max_new_tokens}
            await ask(client, body, record)

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await ask(
            client, {"messages": [{"role": "user", "content": "Hello"}]}, Record()
        )  # the connection is made before
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(ask_on(client) for _ in range(clients)))
        took = time.perf_counter() - began
    return {
        "clients": clients,
        "answers": len(record.whole),
        "refused": record.refused,
        "answers_per_s": round(len(record.whole) / took, 2),
        "tokens_per_s": round(record.tokens / took, 1),
        **percentiles("first_token", record.first),
        **percentiles("answer", record.whole),
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any], record: Record) -> None:
    """Ask one question, and note when its answer came."""
    began = time.perf_counter()
    first = None
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", CHAT, json=body) as response:
        async for line in response.aiter_lines():
            if response.status_code != 200:
                record.refused += 1
                return
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter() - began
            if chunk.get("usage"):
                record.tokens += chunk["usage"]["completion_tokens"]
    if first is not None:
        record.first.append(first)
    record.whole.append(time.perf_counter() - began)


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """The median and the 99th percentile, in seconds."""
    if len(seconds) < 2:
        return {}
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    return {f"{name}_p50": round(hundredths[49], 3), f"{name}_p99": round(hundredths[98], 3)}


if __name__ == "__main__":
    main()
