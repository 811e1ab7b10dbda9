"""What can be set of a server."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerOptions:
    """What can be set of a server.

    Attributes:
        name: of the model, by which clients ask for it.
        api_keys: one of which a client must send; none needed if there are none.
        max_running: answers that are written at the same time; None for as many as the ensemble
            takes into a batch.
        max_waiting: requests that wait for their turn; further ones are refused with 429.
        max_answers: of one request, over all its prompts.
        max_tokens: a client may ask for in an answer; None for no limit but the context.
        max_body: bytes of a request.
        body_timeout: seconds that a request's body may take to arrive.
        timeout: seconds that a request may take, waiting included.
        drain: seconds that running requests have to finish when the server is stopped.
        log_text: whether prompts stand in the log.

    """

    name: str = "pocket"
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    max_running: int | None = None
    max_waiting: int = 64
    max_answers: int = 16
    max_tokens: int | None = None
    max_body: int = 4 * 2**20
    body_timeout: float = 30.0
    timeout: float = 600.0
    drain: float = 30.0
    log_text: bool = False
