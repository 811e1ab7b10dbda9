"""The client's trace, of which the spans of its request become a part."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def trace_of(headers: Mapping[str, str]) -> Iterator[None]:
    """Have the span that the headers name (``traceparent``) as the current one.

    Without OpenTelemetry nothing is done.
    """
    try:
        from opentelemetry import context, propagate
    except ImportError:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
