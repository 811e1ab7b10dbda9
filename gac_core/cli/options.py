"""The options that commands share, each declared once, and what is made of them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from gac_core.cli.option_groups import Without
from gac_core.cli.terminal import is_terminal, read_input
from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError
from gac_core.grammar.grammar import Grammar
from gac_core.registry import METHODS
from gac_core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from gac_core.chat.messages import Message
    from gac_core.chat.prompt import Prompt
    from gac_core.ensemble import Ensemble

# ------------------------------------------------ which ensemble


@dataclass(frozen=True)
class EnsembleOptions:
    """Which models write together, how, and where they run."""

    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="Folder, GGUF file or hub name; once per model. Default: pocket."
        ),
    ] = None
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML file; `gac config` writes one.")
    ] = None
    weights: Annotated[
        str | None, typer.Option(help="One number per model, with commas: 0.6,0.4. Default: equal.")
    ] = None
    method: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(METHODS.builtin)}, or a preset. Default: {METHODS.builtin[0]}."
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            help="cascade: the first model decides alone above this probability; co_llm: the "
            "others are asked above this one."
        ),
    ] = None
    primary: Annotated[
        int | None, typer.Option(help="Which model is asked first; 0 by default.")
    ] = None
    others: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other option of the configuration, such as paths=4 or draft=ngrams; "
            "repeat it.",
        ),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or float64.")] = (
        "auto"
    )

    @property
    def is_pocket(self) -> bool:
        """Whether it is the embedded ensemble."""
        return not self.models and self.config is None

    def load(self, *, lazy: bool = False) -> "Ensemble":
        """Load the ensemble, with progress bars on a terminal only.

        Args:
            lazy: load when first used.

        Raises:
            ConfigError: options are wrong or exclude each other.
            LoadError: a model can not be loaded.
            VocabularyError: a tokenizer can not take part.

        """
        options = self._overrides()
        config = None if self.config is None else self._from_file(self.config, options)
        if self.is_pocket and (
            self.device not in ("auto", "cpu") or self.dtype not in ("auto", "float32")
        ):
            raise ConfigError(
                "the pocket ensemble runs on the CPU in float32; for --device and --dtype name "
                "models with --model"
            )
        from gac_core.ensemble import Ensemble  # takes seconds: after what can be wrong above

        if self.is_pocket:
            return Ensemble.pocket(lazy=lazy, **options)
        progress = is_terminal(sys.stderr)
        if config is not None:
            return Ensemble.from_config(config, lazy=lazy, progress=progress)
        return Ensemble.from_pretrained(
            self.models or [],
            device=self.device,
            dtype=self.dtype,
            lazy=lazy,
            progress=progress,
            **options,
        )

    def _overrides(self) -> dict[str, Any]:
        """What is given of `EnsembleConfig`, and the weights."""
        given = {"method": self.method, "threshold": self.threshold, "primary": self.primary}
        options: dict[str, Any] = dict(map(_name_and_value, self.others or ()))
        options |= {name: value for name, value in given.items() if value is not None}
        if self.config is None and self.weights is not None:
            options["weights"] = _numbers(self.weights)
        return options

    def _from_file(self, path: Path, options: dict[str, Any]) -> EnsembleConfig:
        if self.models or self.weights:
            raise ConfigError("--config names models and weights; leave --model, --weights out")
        if (self.device, self.dtype) != ("auto", "auto"):
            raise ConfigError("--config names devices and dtypes; leave --device, --dtype out")
        config = EnsembleConfig.from_yaml(path)
        return EnsembleConfig.of({**config.model_dump(), **options}) if options else config


# For commands that choose the methods themselves.
ModelOptions = Annotated[EnsembleOptions, Without("method", "threshold", "others")]


def _name_and_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as YAML has it."""
    name, equals, value = text.partition("=")
    if name == "members":
        raise ConfigError("--set can not set members; name them with --model or in a file")
    if not equals or not name:
        raise ConfigError(f"--set takes NAME=VALUE, not {text!r}; `gac config` shows the names")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r} is no value as YAML has it") from error


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights must be numbers with commas, not {text!r}") from None


def use_one_thread() -> None:
    """Let torch compute in one thread: more only wait for one another on pocket models."""
    import torch

    torch.set_num_threads(1)


# ------------------------------------------------ what is asked

Question = Annotated[
    str | None, typer.Argument(help="What to ask; read from standard input if left out.")
]
System = Annotated[str | None, typer.Option(help="A system message.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Go on with the text as it is, without chat templates.")
]


def prompt_of(question: str | None, system: str | None, *, raw: bool, example: str) -> "Prompt":
    """The raw text or chat messages to answer; the question may come from standard input.

    Args:
        question: what is asked; None or "-" if it is to be read.
        system: a system message.
        raw: whether the question is a text to go on with.
        example: of a command with a question.

    Raises:
        ConfigError: there is no question, or a system message for a raw text.

    """
    if question in (None, "-") and not is_terminal(sys.stdin):
        question = read_input(whole=True)
    if question is None or question.strip() in ("", "-"):
        raise ConfigError(f"give a question: {example}")
    if not raw:
        return with_system([{"role": "user", "content": question}], system)
    if system is not None:
        raise ConfigError("--system needs a chat prompt; leave --raw or --system out")
    return question


def with_system(messages: Sequence["Message"], system: str | None) -> list["Message"]:
    """The messages after a system message, if there is one."""
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, *messages]


# ------------------------------------------------ how an answer is written

MaxNewTokens = Annotated[int | None, typer.Option(help="Steps at most. Default: 256.")]


@dataclass(frozen=True)
class SamplingOptions:
    """How an answer is drawn and when it ends."""

    max_new_tokens: MaxNewTokens = None
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most probable; 1 draws freely. Default: 0.")
    ] = None
    top_p: Annotated[
        float | None, typer.Option(help="Draw only from units up to this mass. Default: all.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same text.")] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.")
    ] = None
    thinking: Annotated[
        str | None,
        typer.Option(
            help="auto, on or off: whether models that can think before they answer do. "
            "Default: auto, as their chat templates have it."
        ),
    ] = None
    max_thought_tokens: Annotated[int | None, typer.Option(help="Steps of a thought at most.")] = (
        None
    )

    def build(self, grammar: Grammar | None = None) -> SamplingParams:
        """The sampling parameters.

        Raises:
            ConfigError: an option is out of range, or grammar and stop exclude each other.

        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        options = {name: value for name, value in given.items() if value is not None}
        return SamplingParams.of({**options, "grammar": grammar})


@dataclass(frozen=True)
class GrammarOptions:
    """The language of an answer."""

    schema: Annotated[
        Path | None, typer.Option(help="Answer with JSON that fits the JSON schema in this file.")
    ] = None
    regex: Annotated[
        str | None, typer.Option(help="Answer with text this regular expression matches.")
    ] = None
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer with one of these; repeat it.")
    ] = None

    def build(self) -> Grammar | None:
        """The grammar; None if any text will do.

        Raises:
            ConfigError: more than one is given, or a file can not be read.
            GrammarError: there is no such grammar.

        """
        if sum(option is not None for option in (self.schema, self.regex, self.choice)) > 1:
            raise ConfigError("--schema, --regex and --choice exclude each other; give one of them")
        if self.schema is not None:
            return Grammar.json_schema(read_text(self.schema, "--schema"))
        if self.regex is not None:
            return Grammar.regex(self.regex)
        return Grammar.choice(self.choice) if self.choice is not None else None


# ------------------------------------------------ questions, files and output

QuestionSeed = Annotated[int, typer.Option(help="Other questions for another seed.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def read_text(path: Path, option: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        option: which option names it.

    Raises:
        ConfigError: it can not be read as UTF-8.

    """
    try:
        return path.read_text(encoding="utf-8-sig")  # with a byte order mark or without
    except OSError as error:
        raise ConfigError(f"{option}: {path} can not be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option}: {path} can not be read: {error}; save it as UTF-8") from error


def check_overwriting(path: Path, *, force: bool) -> None:
    """Refuse to overwrite a file without --force.

    Raises:
        ConfigError: the file exists, without `force`.

    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; add --force to overwrite it")
