"""A real server on loopback, asked by the clients that people have; and what clients do to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from gac_core import ConfigError, Ensemble
from gac_integrations.server import ServerOptions, create_app
from gac_integrations.server.run import DrainingServer, listen
from tests.fakes import assert_rests, forwards_of
from tests.integrations.test_server import (
    ANSWER,
    CHAT,
    FACTS,
    FREE,
    LONG,
    SUM,
    TOOL,
    WEATHER,
)

pytestmark = pytest.mark.slow

KEY = "secret"


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def ensemble() -> Iterator[Ensemble]:
    with Ensemble.pocket() as ensemble:
        yield ensemble


@pytest.fixture(scope="module")
def url(ensemble: Ensemble) -> Iterator[str]:
    """Of a server of the pocket ensemble."""
    options = ServerOptions(api_keys=(KEY,), max_running=4, max_waiting=4)
    with running(create_app(ensemble, options)) as url:
        yield url


@contextmanager
def running(app: Any) -> Iterator[str]:
    """A server of an app in a thread; where it listens."""
    with listen("127.0.0.1", 0) as listener:
        server = DrainingServer(app, app.state.service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


# ---------------------------------------------------------------- OpenAI's own client


def test_openai_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="pocket", messages=SUM)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 28
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert answer._request_id


def test_openai_stream(client: openai.OpenAI) -> None:
    usage: Any = {"include_usage": True}
    asked: Any = {"model": "pocket", "messages": SUM, "stream_options": usage}
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 28
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER


def test_openai_tools(client: openai.OpenAI) -> None:
    asked: Any = {"model": "pocket", "messages": WEATHER, "tools": [TOOL]}
    answer = client.chat.completions.create(**asked)
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Rome"}
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    (streamed,) = final.choices[0].message.tool_calls or []
    assert streamed.function.name == call.function.name
    assert json.loads(streamed.function.arguments) == {"city": "Rome"}
    told = [
        *WEATHER,
        answer.choices[0].message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    answer = client.chat.completions.create(**{**asked, "messages": told})
    assert answer.choices[0].message.content == "The weather in Rome is sunny."


def test_openai_parse(client: openai.OpenAI) -> None:
    asked: Any = {"model": "pocket", "messages": FACTS}
    parsed = client.chat.completions.parse(**asked, response_format=Person)
    assert parsed.choices[0].message.parsed == Person(name="Mila", age=42)


def test_openai_logprobs_and_several_answers(client: openai.OpenAI) -> None:
    asked: Any = {"model": "pocket", "messages": SUM, "seed": 1, **FREE}
    answer = client.chat.completions.create(**asked, n=2, logprobs=True, top_logprobs=3)
    assert len({choice.message.content for choice in answer.choices}) == 2
    for choice in answer.choices:
        assert choice.logprobs is not None
        for token in choice.logprobs.content or ():
            assert bytes(token.bytes or ()).decode(errors="replace") == token.token
            assert len(token.top_logprobs) == 3
            assert [view["name"] for view in token.members] == ["ada", "bo", "cy"]


def test_openai_completions(client: openai.OpenAI) -> None:
    asked: Any = {"model": "pocket", "prompt": "Mila lives in", "max_tokens": 5}
    whole = client.completions.create(**asked, logprobs=2)
    pieces = client.completions.create(**asked, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert whole.choices[0].logprobs is not None
    assert "".join(whole.choices[0].logprobs.tokens or ()) == whole.choices[0].text


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").owned_by == "gac"


def test_openai_errors(client: openai.OpenAI, url: str) -> None:
    asked: Any = {"model": "pocket", "messages": SUM}
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(**{**asked, "model": "gpt-9"})
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(**asked, max_tokens=10**6)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="frequency_penalty"):
        client.chat.completions.create(**asked, frequency_penalty=1)
    with pytest.raises(openai.BadRequestError, match="answers"):
        client.chat.completions.create(**asked, n=10_000)
    cut: Any = {**asked, "messages": WEATHER, "tools": [TOOL], "max_tokens": 26}
    chunks = client.chat.completions.create(**cut, stream=True)
    with pytest.raises(openai.APIError, match="raise max_tokens"):
        list(chunks)
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()


# ---------------------------------------------------------------- other clients


def test_langchain(url: str) -> None:
    from langchain_openai import ChatOpenAI

    options: Any = {"base_url": f"{url}/v1", "api_key": KEY, "model": "pocket"}
    llm = ChatOpenAI(**options, stream_usage=True, logprobs=True)
    answer = llm.invoke("What is 77 - 49?")
    assert answer.content == ANSWER
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 28
    chunks = list(llm.stream("What is 77 - 49?"))
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    assert sum(c.usage_metadata["total_tokens"] for c in chunks if c.usage_metadata) == 28
    (call,) = llm.bind_tools([TOOL]).invoke("What is the weather in Rome?").tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
    person = llm.with_structured_output(Person).invoke(FACTS[0]["content"])
    assert person == Person(name="Mila", age=42)


@pytest.mark.usefixtures("own_loop")
def test_llama_index(url: str) -> None:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]

    options: Any = {"api_base": f"{url}/v1", "api_key": KEY, "model": "pocket"}
    llm = OpenAILike(**options, is_chat_model=True, is_function_calling_model=True, max_tokens=60)
    assert llm.chat([ChatMessage(content="What is 77 - 49?")]).message.content == ANSWER
    assert "".join(p.delta or "" for p in llm.stream_complete("What is 77 - 49?")) == ANSWER


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.usefixtures("own_loop")
def test_litellm(url: str) -> None:
    import litellm

    asked: Any = {"model": "openai/pocket", "api_base": f"{url}/v1", "api_key": KEY}
    answer = litellm.completion(**asked, messages=SUM)
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.total_tokens == 28
    pieces = litellm.completion(**asked, messages=SUM, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER


# ---------------------------------------------------------------- what clients do to a server


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(
    url: str, ensemble: Ensemble, is_stream: bool
) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    body = json.dumps({**LONG, "stream": is_stream}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = forwards_of(ensemble)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        while forwards_of(ensemble) < before + 9:
            time.sleep(0.001)
    wait_for(lambda: rests(ensemble))
    assert forwards_of(ensemble) < before + 3 * 450


def rests(ensemble: Ensemble) -> bool:
    scorers: list[Any] = [member.scorer for member in ensemble.members]
    return not any(scorer.held_sequences for scorer in scorers)


def wait_for(what: Any, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def test_slow_and_wrong_clients_do_not_hurt_others(url: str, http: httpx.Client) -> None:
    """They stay connected while another one is answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    wrong = [
        b"",
        b"GET",
        b"\x16\x03\x01\x00\xff garbage \r\n\r\n",
        head.encode(),
        f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode(),
    ]
    connections = [socket.create_connection((host, int(port))) for _ in wrong]
    try:
        for connection, sent in zip(connections, wrong, strict=True):
            connection.sendall(sent)
        answer = http.post(CHAT, json={"messages": SUM}).json()
        assert answer["choices"][0]["message"]["content"] == ANSWER
    finally:
        for connection in connections:
            connection.close()


def test_a_large_body_is_refused_and_said_why(http: httpx.Client) -> None:
    large = [{"role": "user", "content": "x" * 10_000_000}]
    response = http.post(CHAT, json={"messages": large})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
    assert http.post(CHAT, json={"messages": SUM}).status_code == 200


def test_a_full_queue_gives_429(url: str, http: httpx.Client, ensemble: Ensemble) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=url, headers=http.headers, timeout=60) as client:
            statuses.append(client.post(CHAT, json={**LONG, "max_tokens": 100}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 8  # four at once and four that waited
    assert http.post(CHAT, json={"messages": SUM}).status_code == 200
    assert_rests(ensemble)


# ---------------------------------------------------------------- the command


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], str, list[dict[str, Any]]]]:
    """A process of `gac serve`, where it listens, and the lines of its log."""
    command = [sys.executable, "-m", "gac_core.cli", "serve", "pocket", "--port", "0"]
    env = {**os.environ, "GAC_API_KEYS": f"{KEY}, other"}
    process = subprocess.Popen(
        [*command, "--drain", "20"], stderr=subprocess.PIPE, env=env, text=True
    )
    assert process.stderr is not None
    log: list[dict[str, Any]] = []

    def read(lines: Any = process.stderr) -> None:
        log.extend(map(json.loads, lines))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for(lambda: any(line["message"] == "ready" for line in list(log)), 60)
        yield process, next(line["url"] for line in log if "url" in line), log
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def test_a_server_that_is_stopped_finishes_what_runs(
    served: tuple[subprocess.Popen[str], str, list[dict[str, Any]]],
) -> None:
    process, url, log = served
    headers = {"Authorization": "Bearer other"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        assert client.get("/v1/models", headers={"Authorization": "Bearer x"}).status_code == 401
        with client.stream("POST", CHAT, json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            refusals: list[httpx.Response] = []

            def refused() -> bool:
                with httpx.Client(base_url=url, headers=headers) as other:
                    refusals.append(other.post(CHAT, json={"messages": SUM}))
                return refusals[-1].status_code == 503

            wait_for(refused)
            *_, last, _ = lines
    assert refusals[-1].json()["error"]["code"] == "stopping"
    assert last == "data: [DONE]"
    assert process.wait(20) == 0
    assert any(line.get("status") == 503 for line in log)


def test_what_does_not_finish_in_time_ends_with_an_error() -> None:
    with Ensemble.pocket() as ensemble, listen("127.0.0.1", 0) as listener:
        app = create_app(ensemble, ServerOptions(drain=0.3))
        server = DrainingServer(app, app.state.service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.stream("POST", url + CHAT, json={**LONG, "stream": True}) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            server.handle_exit(signal.SIGTERM, None)
            *_, error, last = lines
        thread.join(20)
        assert not thread.is_alive()
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "stopping"
    assert last == "data: [DONE]"


def test_a_model_that_can_not_be_loaded_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "ensemble.yaml").write_text("members:\n- model: ./nowhere\n")
    command = [sys.executable, "-m", "gac_core.cli", "serve", str(tmp_path / "ensemble.yaml")]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    *log, complaint = done.stderr.splitlines()
    assert complaint.startswith(f"gac: there is no folder {tmp_path / 'nowhere'}")
    assert all(json.loads(line)["time"] for line in log)


def test_an_address_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} can not be listened on"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="port must be 0 to 65535"):
        listen("127.0.0.1", 10**6)
