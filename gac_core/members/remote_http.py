"""JSON over HTTP to one server, again where trying again can help, until a deadline."""

import time
import weakref
from typing import Any, Final

import httpx

from gac_core.errors import MemberError, UnreachableError, one_line

_FIRST_PAUSE: Final = 0.05  # seconds before the second try; twice as long before each further one
_LONGEST_PAUSE: Final = 2.0
_CONNECT: Final = 5.0  # seconds for a connection; nothing in one network takes longer
_BUSY: Final = (408, 429, 502, 503, 504)  # passes: a proxy without its server, a model that loads
_MOST_FAULTS: Final = 4  # tries after which an internal error (500) is one of this request


class Server:
    """A server that answers JSON.

    Args:
        url: where it is, without a path: ``http://host:port``.
        name: of the member, for messages.
        timeout: seconds that one request may take, all tries together.
        api_key: sent with every request, as a bearer token; None for none.

    Attributes:
        url: where it is.
        name: of the member.
        connections: how many were opened so far. After each of them another program may be
            listening there.

    """

    def __init__(self, url: str, name: str, timeout: float, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self.connections = 0
        self._timeout = timeout
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._open()

    def get(self, path: str) -> Any:
        """What is at a path; arguments and errors as of `post`."""
        return self._answer("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The answer to a request.

        Args:
            path: begins with a slash.
            body: is sent as JSON.

        Raises:
            UnreachableError: the server did not answer within the timeout.
            MemberError: it refused the request, failed on it, or answered no JSON.

        """
        return self._answer("POST", path, body)

    def close(self) -> None:
        """Close all connections; a further request opens one."""
        self._finalizer()
        self._open()

    def _open(self) -> None:
        self._client = httpx.Client(headers=self._headers)
        self._finalizer = weakref.finalize(self, self._client.close)

    def _answer(self, method: str, path: str, body: Any) -> Any:
        deadline = time.monotonic() + self._timeout
        pause, tries, faults = _FIRST_PAUSE, 0, 0
        while True:
            tries += 1
            left = max(deadline - time.monotonic(), 0.001)
            cause: Exception | None = None
            try:
                response = self._client.request(
                    method,
                    self.url + path,
                    json=body,
                    timeout=httpx.Timeout(left, connect=min(left, _CONNECT)),
                    extensions={"trace": self._trace},
                )
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise MemberError(f"{self._where(path)} is no address: {error}") from error
            except httpx.TransportError as error:
                cause, problem = error, one_line(error, 200)
            else:
                if response.is_success:
                    return self._json(response, path)
                problem = f"{response.status_code} {one_line(Exception(response.text), 300)}"
                faults += response.status_code == httpx.codes.INTERNAL_SERVER_ERROR
                is_final = response.status_code not in (*_BUSY, httpx.codes.INTERNAL_SERVER_ERROR)
                if is_final or faults == _MOST_FAULTS:
                    raise MemberError(
                        f"{self._where(path)} refused a request: {problem}; check that engine is "
                        "what runs there, and its log"
                    )
            if time.monotonic() + pause >= deadline:
                raise UnreachableError(
                    f"{self._where(path)} did not answer within {self._timeout:g} s (tries: "
                    f"{tries}; the last: {problem}); check that the server runs and can be "
                    "reached, or raise timeout"
                ) from cause
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _trace(self, event: str, info: Any) -> None:  # noqa: ARG002
        if event == "connection.connect_tcp.complete":
            self.connections += 1

    def _json(self, response: httpx.Response, path: str) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise MemberError(
                f"{self._where(path)} answered no JSON: {response.text[:80]!r}; check url"
            ) from error

    def _where(self, path: str) -> str:
        return f"{self.name} at {self.url}{path}"
