"""An HTTP server of an ensemble that speaks OpenAI's API: chats, completions, models."""

from gac_integrations.server.app import create_app
from gac_integrations.server.options import ServerOptions

__all__ = ["ServerOptions", "create_app"]
