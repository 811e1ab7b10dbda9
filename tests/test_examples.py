import gc
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index_instrumentation import get_dispatcher

from gac_core.registry import FUSIONS, METHODS

FOLDER = Path(__file__).parents[1] / "examples"
ELSEWHERE = FOLDER / "real_pair.py"  # needs real models; tests/test_gguf.py has small ones for it
EXAMPLES = sorted(set(FOLDER.rglob("*.py")) - {ELSEWHERE})

SAYS = {
    "answer": ["47 + 35 = 82"],
    "cascade": ["threshold 0.0:   0%", "threshold 1.0: 100%", "The code of Ben is 9037."],
    "many_at_once": ["3 + 8 = 11", "14 + 19 = 33", "25 + 30 = 55", "31 + 36 = 67", "42 + 47 = 89"],
    "own_models": ["The code of Ben is 9037."],
    "stream": ["cy b'"],
    "langchain/agent": ["tool   sunny", "The weather in Rome is sunny.", "37 times 12 is 444."],
    "langchain/assistant": [
        'get_weather{"city": "Rome"}',
        "37 times 12 is 444.",
        "8 messages remembered",
        "city='Rome' weather='sunny'",
    ],
    "langchain/chain": ["Mila lives in Rome.", "The code of Tom is 1202."],
    "langchain/rag": ["The pet of Tom is a parrot.", "The owner of Hotel Astor is Vera."],
    "langchain/structured": ["name='Mila' job='a baker' details=Details(age=42, city='Rome')"],
    "llama_index/agent": ["37 times 12 is 444.", "call: get_weather {'city': 'Rome'}", "sunny."],
    "llama_index/agreement": ["77 - 49 = [2]8"],
    "llama_index/assistant": [
        "call: look_up {'input': 'Where does Mila live?'}",
        "look_up says: Mila lives in Rome.",
    ],
    "llama_index/chat_engine": ["The best friend of Mila is Tom.", "4 messages remembered"],
    "llama_index/extraction": [
        "details=Details(age=42, city='Rome')",
        "job='a baker' details=None",
    ],
    "llama_index/query_engine": ["The code of Tom is 4711.", "The owner of Hotel Astor is Vera."],
    "own_method": ["384 + 979 = 1363", "steps of 3 members"],
    "langchain/trace": ["'2'     * ada '2'", "77 - 49 = 28"],
}


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def assert_says(path: Path, out: str, err: str) -> None:
    for said in SAYS[name_of(path)]:
        assert said in out
    assert "Traceback" not in err


@pytest.fixture
def no_trace() -> Iterator[None]:
    """What an example registers is forgotten, and what it leaves open is collected."""
    handlers = get_dispatcher().event_handlers
    before = list(handlers)
    with METHODS.scoped(), FUSIONS.scoped():
        yield
    handlers[:] = before
    gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as in a program of a user's
@pytest.mark.usefixtures("own_loop", "no_trace")
@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_every_example_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(path.name, run_name="__main__")
    out, err = capsys.readouterr()
    assert_says(path, out, err)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if name_of(p) == "answer" else pytest.mark.wide) for p in EXAMPLES],
    ids=name_of,
)
def test_every_example_runs_as_a_program(path: Path) -> None:
    """As a user would run it, from its own folder."""
    done = subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_says(path, done.stdout, done.stderr)
