"""The `gac` command: run, chat, choose, eval, fit-gate, vocab, config.

What takes seconds to import is imported where it is used, so that help and mistakes answer at once.
"""

import os
import sys
from collections.abc import Iterable
from typing import Final

import typer
from rich.text import Text

from gac_core.cli.chat import chat
from gac_core.cli.choose import choose
from gac_core.cli.config import write_config
from gac_core.cli.evaluate import evaluate
from gac_core.cli.fit_gate import fit_gate
from gac_core.cli.run import run
from gac_core.cli.terminal import err
from gac_core.cli.vocab import vocab
from gac_core.errors import (
    ConfigError,
    GacError,
    LoadError,
    PromptError,
    VocabularyError,
    one_line,
)

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 a member failed; 2 a wrong option, file or prompt; 3 a model or "
    "tokenizer can not be used; 130 interrupted."
)
_FAILED, _WRONG, _UNUSABLE, _INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Several language models with different tokenizers write one text together.\n\n"
    "Without models, the commands use the pocket ensemble: three tiny chat models inside this "
    "package that need no GPU and no download.\n\n" + EXIT_CODES,
)
app.command("run")(run)
app.command("chat")(chat)
app.command("choose")(choose)
app.command("eval")(evaluate)
app.command("fit-gate")(fit_gate)
app.command("vocab")(vocab)
app.command("config")(write_config)


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command; an error is one line with the cure, and an exit code of its kind.

    Args:
        arguments: in place of those of the process.

    """
    try:
        app(None if arguments is None else list(arguments), prog_name="gac")
    except (ConfigError, PromptError) as error:
        _exit(error, _WRONG)
    except (LoadError, VocabularyError) as error:
        _exit(error, _UNUSABLE)
    except GacError as error:
        _exit(error, _FAILED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader has left; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_FAILED)


def _exit(error: GacError, code: int) -> None:
    err().print(Text(f"gac: {one_line(error)}", style="red"))
    sys.exit(code)
