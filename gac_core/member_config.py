"""The options of one member, checked as they are set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from gac_core.method_specs import Checked

# Options that mean something to a model in this process, and to a server.
_OF_MODELS: Final = ("device", "device_map", "max_memory", "dtype", "quantization", "attention")
_OF_SERVERS: Final = ("engine", "top_k_logprobs", "timeout", "api_key_env")


class MemberConfig(Checked):
    """One model and where it runs.

    Example:
        >>> from gac_core import EnsembleConfig, MemberConfig
        >>> big = MemberConfig(model="org/model-a", weight=0.6, dtype="bfloat16")
        >>> config = EnsembleConfig(members=(big, "org/model-b"))  # a name is a member, too
        >>> config.names, config.weights
        (('model-a', 'model-b'), (0.6, 1.0))

    """

    model: str = Field(
        description="a hub name, a folder, or a GGUF file; with url, where its tokenizer is"
    )
    url: str | None = Field(
        None, pattern=r"^https?://", description="of a running server that computes it"
    )
    engine: Literal["sglang", "vllm", "llamacpp"] | None = Field(
        None, description="with url: what runs there, sglang, vllm or llamacpp"
    )
    top_k_logprobs: Annotated[int, Field(strict=True, ge=1)] | Literal["all"] = Field(
        "all",
        description="with url: how many of the likeliest tokens are asked for, or all; fewer are "
        "quicker, and all are asked for where these do not decide",
    )
    timeout: float = Field(
        60.0, gt=0.0, description="with url: seconds for one request, all tries together"
    )
    api_key_env: str | None = Field(
        None, description="with url: the environment variable that holds the server's API key"
    )
    gguf_file: str | None = Field(None, description="the GGUF file in that folder or repository")
    name: str | None = Field(None, description="what messages and steps call it")
    revision: str | None = Field(None, description="a commit, tag or branch on the hub")
    weight: float | None = Field(None, ge=0.0, description="None: all equal; 0: left out")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, or auto")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="spread over several devices by accelerate: auto, balanced, or a map"
    )
    max_memory: dict[int | str, int | str] | None = Field(
        None, description="with device_map: the most each device may hold, such as {0: 20GiB}"
    )
    dtype: Literal["auto", "float64", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the weights; auto is as they are stored, and float32 for GGUF files"
    )
    quantization: dict[str, Any] | None = Field(
        None, description="a transformers quantization config, such as {quant_method: ...}"
    )
    attention: Literal["sdpa", "eager"] = Field("sdpa", description="sdpa, or eager")
    trust_remote_code: bool = Field(False, description="run code from the model's repository")
    text_tokens: tuple[str, ...] = Field((), description="added tokens that count as text")
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="what its chat template is given besides, such as {reasoning_effort: low}"
    )
    think_tags: tuple[str, str] | None = Field(
        None, description="between which it thinks, where its chat template does not show them"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_model(cls, values: Any) -> Any:
        return {"model": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _placed_once(self) -> Self:
        if self.device_map is not None and self.device != "auto":
            raise ValueError("device and device_map exclude each other; give one of them")
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("max_memory needs device_map; add device_map: auto")
        return self

    @model_validator(mode="after")
    def _computed_once(self) -> Self:
        if self.url is None:
            for name in _OF_SERVERS:
                if name in self.changed:
                    raise ValueError(f"{name} needs url, the address of a server")
            return self
        if self.engine is None:
            raise ValueError("url needs engine, what runs there: sglang, vllm or llamacpp")
        if self.gguf_file is not None or self.model.endswith(".gguf"):
            raise ValueError(
                "url and a GGUF file exclude each other; with url, `model` is the folder or hub "
                "name of the tokenizer"
            )
        for name in _OF_MODELS:
            if name in self.changed:
                raise ValueError(f"{name} means nothing with url; set it where the server starts")
        return self


def member_names(members: Sequence[MemberConfig]) -> list[str]:
    """Each member's name: as given, or else the end of its model's path, made unique."""
    names: list[str] = []
    taken = {member.name for member in members if member.name}
    for member in members:
        path = Path(member.gguf_file or member.model)
        name = member.name or path.name.removesuffix(".gguf") or member.model
        if not member.name:
            unique, count = name, 2
            while unique in taken or unique in names:
                unique, count = f"{name}-{count}", count + 1
            name = unique
        names.append(name)
    return names
