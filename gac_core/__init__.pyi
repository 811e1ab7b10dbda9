"""The public names, each once: where it is, for type checkers and for the loader."""

from .config import (
    EnsembleConfig as EnsembleConfig,
)
from .decoding.mixing import (
    Fused as Fused,
)
from .decoding.request import (
    Request as Request,
)
from .engine.streams import (
    AsyncStream as AsyncStream,
    Stream as Stream,
)
from .ensemble import (
    Ensemble as Ensemble,
)
from .errors import (
    AnswerCutError as AnswerCutError,
    CannotSpellError as CannotSpellError,
    ConfigError as ConfigError,
    ContextOverflowError as ContextOverflowError,
    EngineClosedError as EngineClosedError,
    ForkedError as ForkedError,
    GacError as GacError,
    GrammarError as GrammarError,
    LoadError as LoadError,
    MemberError as MemberError,
    MethodError as MethodError,
    ModelChangedError as ModelChangedError,
    NonFiniteLogitsError as NonFiniteLogitsError,
    PromptError as PromptError,
    RewritesTextError as RewritesTextError,
    UnreachableError as UnreachableError,
    VocabularyError as VocabularyError,
)
from .fusion.rules import (
    Views as Views,
)
from .fusion.weighting import (
    Weighting as Weighting,
)
from .grammar.grammar import (
    Grammar as Grammar,
)
from .member_config import (
    MemberConfig as MemberConfig,
)
from .members.base import (
    Ask as Ask,
    Query as Query,
    Scored as Scored,
    Scorer as Scorer,
    ScorerStats as ScorerStats,
)
from .members.loading import (
    load_members as load_members,
)
from .method_specs import (
    MethodOptions as MethodOptions,
    MethodSpec as MethodSpec,
    RelativePath as RelativePath,
)
from .outputs import (
    Choice as Choice,
    MemberChoice as MemberChoice,
    MemberUsage as MemberUsage,
    MemberView as MemberView,
    Outcome as Outcome,
    Output as Output,
    Step as Step,
    Usage as Usage,
)
from .registry import (
    register_fusion as register_fusion,
    register_method as register_method,
    register_weighting as register_weighting,
)
from .tokens.spaces import (
    BYTES as BYTES,
    Space as Space,
)

__version__: str
__all__: list[str]
from .sampling_params import (
    SamplingParams as SamplingParams,
)
