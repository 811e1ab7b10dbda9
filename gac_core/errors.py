"""Every error this package raises on purpose.

::

    GacError
    ├── ConfigError (ValueError)          an option is unknown, out of range or contradicts another
    │   └── GrammarError                  a grammar can not be enforced, or its texts do not fit
    ├── LoadError                         a model folder is missing, corrupt or unsafe to open
    ├── VocabularyError                   a tokenizer can not take part in an ensemble
    │   ├── CannotSpellError              it has no tokens for some bytes
    │   └── RewritesTextError             it changes the text it is given
    ├── PromptError (ValueError)          the prompt or a message is malformed
    │   └── ContextOverflowError          prompt and answer do not fit a member's context
    ├── MemberError                       a member's forward pass failed
    │   ├── NonFiniteLogitsError          ... or gave NaN, or no finite logit at all
    │   ├── UnreachableError              ... or its server did not answer in time
    │   └── ModelChangedError             ... or its server runs another model than before
    ├── MethodError                       a method, rule or weighting broke its contract
    ├── AnswerCutError                    the budget ended the answer within a call of a tool
    ├── EngineClosedError                 the ensemble was closed
    └── ForkedError                       the ensemble was loaded before this process was forked

Each message names what was wrong, where, and the cure.
"""


class GacError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(GacError, ValueError):
    """An option is unknown, out of range, or contradicts another."""


class GrammarError(ConfigError):
    """A grammar can not be enforced, or no text of it fits into the steps of the answer."""


class LoadError(GacError):
    """A model could not be loaded: missing, corrupt, or unsafe to open."""


class VocabularyError(GacError):
    """A tokenizer can not take part in an ensemble."""


class CannotSpellError(VocabularyError):
    """A tokenizer has no tokens for some bytes that other members write."""


class RewritesTextError(VocabularyError):
    """A tokenizer changes the text it is given, so what it reads is not what was written."""


class PromptError(GacError, ValueError):
    """A prompt or a message is malformed."""


class ContextOverflowError(PromptError):
    """Prompt and answer together do not fit the context of a member."""


class MemberError(GacError):
    """A member's forward pass failed."""


class NonFiniteLogitsError(MemberError):
    """A member gave NaN, or no finite logit at all."""


class UnreachableError(MemberError):
    """The server that a member is did not answer in time."""


class ModelChangedError(MemberError):
    """The server that a member is runs another model than when it was first asked."""


class MethodError(GacError):
    """A decoding method, fusion rule or weighting, such as a registered one, broke its contract."""


class AnswerCutError(GacError):
    """The budget ended the answer within a call of a tool; its arguments may be incomplete."""


class EngineClosedError(GacError):
    """The ensemble was closed before or while it answered."""


class ForkedError(GacError):
    """The ensemble was loaded in another process, of which this one is a fork."""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """The message of an error on one line, perhaps cut to a length; its type if there is none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
