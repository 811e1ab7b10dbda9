"""Members that are in memory already, as `Ensemble.from_models` is given them."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gac_core.config import EnsembleConfig
from gac_core.errors import ConfigError
from gac_core.member_config import MemberConfig
from gac_core.members.base import Scorer
from gac_core.members.loading import Loaded

Given = Sequence[tuple[PreTrainedModel | Scorer, PreTrainedTokenizerBase]]


def given_members(models: Given, names: Sequence[str] | None) -> list[MemberConfig]:
    """The configuration of each.

    Args:
        models: (model or scorer, tokenizer) pairs.
        names: one per model; the models' own without.

    Raises:
        ConfigError: an item is no such pair, or there are not as many names.

    """
    if names is not None and len(names) != len(models):
        raise ConfigError(f"there are {len(models)} models and {len(names)} names")
    for item in models:
        if not (
            isinstance(item, (tuple, list))
            and len(item) == 2
            and isinstance(item[0], (PreTrainedModel, Scorer))
            and isinstance(item[1], PreTrainedTokenizerBase)
        ):
            raise ConfigError(
                f"models must be (model or scorer, tokenizer) pairs, not {item!r:.80}"
            )
    return [
        MemberConfig.of({"model": _path_of(model), "name": names[i] if names else None})
        for i, (model, _) in enumerate(models)
    ]


def loaded_of(config: EnsembleConfig, models: Given) -> list[Loaded]:
    """Those that take part; models are put in evaluation mode."""
    loaded = []
    for i in config.used:
        model, tokenizer = models[i]
        if isinstance(model, PreTrainedModel):
            model.eval()
        loaded.append(Loaded(config.names[i], model, tokenizer))
    return loaded


def _path_of(model: PreTrainedModel | Scorer) -> str:
    return str(model.name_or_path if isinstance(model, PreTrainedModel) else model.name) or "model"
