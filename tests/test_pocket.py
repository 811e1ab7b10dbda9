"""The embedded ensemble: what is in the package, and what it can do."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gac_core import Ensemble, PromptError
from gac_core.chat.messages import Message
from gac_core.chat.prompt import render_prompt
from gac_core.members.local import LocalScorer
from gac_core.pocket import NAMES, folder, tasks, train
from gac_core.pocket.training.batches import IGNORED, Encoder
from gac_core.pocket.training.conversations import conversation
from gac_core.pocket.training.recipes import PHASES, RECIPES
from gac_core.pocket.training.tokenizer import train_tokenizer
from tests.fakes import packed_tokenizer


@pytest.fixture(scope="module")
def pocket() -> Any:
    with Ensemble.pocket() as ensemble:
        yield ensemble


def ask(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def test_it_is_small_and_safe() -> None:
    files = [f for name in NAMES for f in folder(name).iterdir()]
    assert sum(f.stat().st_size for f in files) < 15_000_000
    assert {f.suffix for f in files} <= {".json", ".jinja", ".safetensors"}


def test_naming_it_imports_no_torch() -> None:
    code = "import sys, gac_core.pocket as p; assert p.members() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_members_differ_in_tokenizer_template_and_way_with_space(pocket: Ensemble) -> None:
    assert [m.name for m in pocket.members] == list(NAMES)
    assert not pocket.union.is_shared
    prompts = pocket.prompt_ids([{"role": "system", "content": "Be brief."}, *ask("Hello")])
    assert len({tuple(ids) for ids in prompts}) == 3
    for member in pocket.members:
        member.tokenizer.check()
        assert isinstance(member.scorer, LocalScorer)
        assert member.scorer.has_cache


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizer_in_the_package_is_the_one_the_script_trains(
    name: str, tmp_path: Path
) -> None:
    train_tokenizer(RECIPES[name]).save_pretrained(tmp_path)
    fresh = json.loads((tmp_path / "tokenizer.json").read_text())
    packed = json.loads((folder(name) / "tokenizer.json").read_text())
    assert fresh == packed


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hello", "Hello! How can I help you?"),
        ("What is 17 + 25?", "17 + 25 = 42"),
        (
            (
                "Mia has 12 apples. Mia finds 7 more. Mia gives away 4. "
                "How many apples does Mia have now?"
            ),
            "12 + 7 = 19. 19 - 4 = 15. Mia has 15 apples.",
        ),
    ],
)
def test_it_answers(pocket: Ensemble, question: str, answer: str) -> None:
    output = pocket.generate(ask(question))
    assert output.text == answer
    assert output.finish_reason == "stop"


@pytest.mark.slow
@pytest.mark.parametrize(
    "judged",
    [
        pytest.param(["retrieval", "extraction"], id="two tasks"),
        pytest.param(list(tasks.JUDGED), id="all tasks", marks=pytest.mark.wide),
    ],
)
def test_together_they_know_more_than_any_of_them(judged: list[str]) -> None:
    """On held-out items; far from the margin that the benchmark measures with more of them."""
    items = {task: list(tasks.heldout(task, 30, seed=1)) for task in judged}

    def right(**options: Any) -> int:
        with Ensemble.pocket(**options) as ensemble:
            return sum(
                item.is_correct(output.text)
                for own in items.values()
                for item, output in zip(
                    own, ensemble.batch([i.messages for i in own], max_new_tokens=80), strict=True
                )
            )

    alone = [right(weights=[float(n == m) for n in NAMES], primary=i) for i, m in enumerate(NAMES)]
    assert right() > max(alone)


@pytest.mark.slow
def test_a_step_of_training_lowers_the_loss(tmp_path: Path) -> None:
    """The script runs from nothing to a saved member that loads."""
    train.train("cy", tmp_path, steps=2, compiled=False)
    report = json.loads((tmp_path / "cy" / "training.json").read_text())
    assert report["steps"] == 2
    with Ensemble.from_pretrained([str(tmp_path / "cy")], progress=False) as ensemble:
        assert ensemble.generate(ask("Hello"), max_new_tokens=2).usage.steps <= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_training_example_is_the_prompt_and_its_learned_answers(name: str) -> None:
    recipe, tokenizer = RECIPES[name], packed_tokenizer(name)
    encoder = Encoder(tokenizer, split_share=0.0)
    rng = random.Random(2)
    seen = 0
    for _ in range(30):
        said = conversation(recipe, 256, rng, PHASES[-1])
        example = encoder(said, rng, 256)
        if example is None:  # the first answer is behind the limit
            continue
        first = next(i for i, m in enumerate(said.messages) if m["role"] == "assistant")
        prompt = render_prompt(tokenizer, said.messages[:first])
        assert example.ids[: len(prompt)] == prompt
        assert set(example.targets[: len(prompt)]) == {IGNORED}
        assert len(example.ids) <= 257
        learned = [t for t in example.targets if t != IGNORED]
        assert learned[-1] == example.targets[-1] == tokenizer.eos_token_id
        answers = str(tokenizer.decode(learned)).split(tokenizer.eos_token)[:-1]
        assert answers == said.answers[: len(answers)]
        seen += len(answers)
    assert seen > 30


def test_answers_are_split_as_other_members_write_them_but_say_the_same() -> None:
    recipe, tokenizer = RECIPES["ada"], packed_tokenizer("ada")
    rng = random.Random(3)
    said = conversation(recipe, 256, rng)
    whole = Encoder(tokenizer, split_share=0.0)(said, rng, 10_000)
    split = Encoder(tokenizer, split_share=0.5)(said, rng, 20_000)
    assert whole is not None
    assert split is not None
    assert len(split.ids) > len(whole.ids)
    assert tokenizer.decode(split.ids) == tokenizer.decode(whole.ids)


def test_the_rate_warms_up_stays_and_goes_down() -> None:
    rates = [train.learning_rate_scale(step, 1400) for step in range(1400)]
    assert rates[0] < rates[30] < rates[60] == 1.0
    assert set(rates[60:1126]) == {1.0}
    assert rates[1126] > rates[1250] > rates[1399] > 0.2


def test_bo_has_no_system_role_and_gets_it_all_the_same(pocket: Ensemble) -> None:
    system = [{"role": "system", "content": "Answer from the context only."}]
    bo = NAMES.index("bo")
    ids = pocket.prompt_ids([*system, *ask("Hello")])[bo]
    text = b"".join(pocket.members[bo].tokenizer.vocabulary.token_bytes[i] for i in ids).decode()
    assert "Answer from the context only.\n\nHello" in text


def test_control_tokens_of_the_members_are_text_in_a_message(pocket: Ensemble) -> None:
    markup = "<|im_end|></s>[/INST]<|end|>"
    output = pocket.generate(ask(f"Hello {markup}"), max_new_tokens=5)
    assert output.usage.steps >= 1
    with pytest.raises(PromptError):
        pocket.generate([{"role": "<|im_end|>", "content": ""}])
