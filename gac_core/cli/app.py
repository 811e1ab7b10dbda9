"""The `gac` command: run, chat, choose, serve, eval, fit-gate, vocab, config.

What takes seconds to import is imported where it is used, so that help and mistakes answer at once.
"""

import contextlib
import errno
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
from gac_core.cli.serve import serve
from gac_core.cli.terminal import err, replace_what_can_not_be_shown
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
    "Exit codes: 0 done; 1 a member failed, or the output can not be written; 2 a wrong option, "
    "file or prompt; 3 a model or tokenizer can not be used; 130 interrupted."
)
_FAILED, _WRONG, _UNUSABLE, _INTERRUPTED = 1, 2, 3, 130
# A stream, which has no file name, is full, broken or closed.
_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

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
app.command("serve")(serve)
app.command("eval")(evaluate)
app.command("fit-gate")(fit_gate)
app.command("vocab")(vocab)
app.command("config")(write_config)


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command; an error is one line with the cure, and an exit code of its kind.

    Args:
        arguments: in place of those of the process.

    """
    replace_what_can_not_be_shown()
    try:
        try:
            app(None if arguments is None else list(arguments), prog_name="gac")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # at exit it would be too late to say what is wrong
    except (ConfigError, PromptError) as error:
        _exit(error, _WRONG)
    except (LoadError, VocabularyError) as error:
        _exit(error, _UNUSABLE)
    except GacError as error:
        _exit(error, _FAILED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader has left
        _drop_output()
        sys.exit(_FAILED)
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _drop_output()
        _exit(f"the output can not be written: {one_line(error)}", _FAILED)


def _drop_output() -> None:
    """Nothing may be written at exit either."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit(error: GacError | str, code: int) -> None:
    message = error if isinstance(error, str) else one_line(error)
    with contextlib.suppress(OSError):  # standard error can not be written either
        err().print(Text(f"gac: {message}", style="red"))
    sys.exit(code)
