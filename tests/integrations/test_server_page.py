"""The page of the server, in a real browser that is driven over its own protocol."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gac_core import Ensemble
from gac_core.testing import Speaker, thinking_tokenizer
from gac_integrations.server import ServerOptions, create_app
from tests.integrations.test_server import ANSWER
from tests.integrations.test_server_clients import running

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
websockets = pytest.importorskip("websockets.sync.client", reason="websockets drives the browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


class Page:
    """A page of a headless browser."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._count = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(json.dumps(message["params"]))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    def run(self, script: str) -> Any:
        """The value of an expression."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < until, f"{script} did not come; {self.problems}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && !!document.getElementById('question')")

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            own = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, **own)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def shoot(self, path: Path) -> None:
        image = self.send("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(image["data"]))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with (
        Ensemble.pocket() as ensemble,
        running(create_app(ensemble, ServerOptions(api_keys=("key",)))) as url,
    ):
        yield url


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Page]:
    """A page on a narrow screen, which shows nothing yet."""
    assert BROWSER is not None
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    command = [BROWSER, *options, f"--user-data-dir={tmp_path}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(m[1] for line in process.stderr if (m := re.search(r"ws://[^:]+:(\d+)", line)))
        targets = httpx.get(f"http://127.0.0.1:{port}/json").json()
        target = next(t for t in targets if t["type"] == "page")
        with websockets.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            size = {"width": 390, "height": 780, "deviceScaleFactor": 1, "mobile": False}
            page.send("Emulation.setDeviceMetricsOverride", **size)
            yield page
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


@pytest.fixture
def page(url: str, browser: Page) -> Page:
    """The page of the pocket ensemble."""
    browser.open(url)
    return browser


def test_a_conversation_by_keyboard(page: Page) -> None:
    page.wait("document.getElementById('name').textContent.includes('API key')")
    assert page.run("document.activeElement.id") == "key"  # which it asks for
    page.type("key")
    page.run("document.getElementById('key').blur()")
    page.wait("document.getElementById('name').textContent === 'pocket: ada + bo + cy'")
    refused, page.problems = page.problems, []
    assert all("401" in problem for problem in refused)

    page.run("document.getElementById('question').focus()")
    page.type("What is 77 - 49?")
    page.press("Enter", "\r")
    page.wait("!!document.querySelector('.answer .note')")
    assert page.run("document.querySelector('.words').textContent") == ANSWER
    note = page.run("document.querySelector('.answer .note').textContent")
    assert note == "11 steps, 11 decided together, 1 in disagreement"
    kinds = page.run("[...document.querySelectorAll('.words span')].map(s => s.className)")
    assert kinds == ["agreed"] * 8 + ["settled", "agreed"]

    page.run("document.querySelector('.words').focus()")
    for _ in range(9):
        page.press("ArrowRight")
    rows = page.run(
        "[...document.querySelectorAll('table tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert rows[0] == ["", "would write", "with", 'gave "2"']
    assert [row[:2] for row in rows[1:]] == [
        ["ada", '"2"'],
        ["bo", '"2"'],
        ["cy", '"3"'],
        ["together", '"2"'],
    ]
    page.press("Escape")
    assert page.run("document.querySelectorAll('table').length") == 0
    page.run("document.querySelectorAll('.words span')[8].click()")
    assert page.run("document.querySelectorAll('table').length") == 1
    page.run("document.getElementById('options').open = true")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.problems == []


def test_an_answer_that_is_stopped_and_one_that_fails(page: Page) -> None:
    page.run("sessionStorage.setItem('key', 'key')")
    page.send("Page.reload")
    page.wait("document.getElementById('name')?.textContent === 'pocket: ada + bo + cy'")
    page.run("document.getElementById('temperature').value = 9")
    page.run(  # which makes it long
        "plain = body; body = () => JSON.stringify({...JSON.parse(plain()), seed: 7}); 1"
    )
    page.run("document.getElementById('most').value = 400")
    page.run("ask('What is 77 - 49?'); 1")
    page.wait("document.querySelectorAll('.words span').length > 3")
    page.press("Escape")
    page.wait("!!document.querySelector('.answer .note')")
    assert page.run("document.querySelector('.answer .note').textContent") == "stopped"
    assert page.run("send.textContent") == "Send"

    page.run("document.getElementById('most').value = 100000")
    page.run("ask('And now?'); 1")
    page.wait("!!document.querySelector('.error')")
    assert "its context holds" in page.run("document.querySelector('.error').textContent")
    page.run("document.getElementById('reset').click()")
    assert page.run("chat.childElementCount + messages.length") == 0


def test_a_thought_is_folded(browser: Page) -> None:
    reasoner = thinking_tokenizer("hybrid")
    said = "<think>\n2 + 3 is 5.\n</think>\n\nIt is 5."
    speaker = Speaker(reasoner, said, "<think>\n\n</think>\n\nIt is 5.")
    with (
        Ensemble.from_models([(speaker, reasoner)]) as ensemble,
        running(create_app(ensemble)) as url,
    ):
        browser.open(url)
        browser.run("ask('What is 2 + 3?'); 1")
        browser.wait("!!document.querySelector('.answer .note')")
        assert browser.run("document.querySelector('.answer details').open") is False
        assert browser.run("document.querySelector('.answer details div').textContent") == (
            "2 + 3 is 5."
        )
        assert browser.run("document.querySelector('.words').textContent") == "It is 5."
        assert browser.run("messages[1].reasoning_content").strip() == "2 + 3 is 5."
    assert browser.problems == []
