import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.rglob("*.py"))

SAYS = {
    "answer": ["47 + 35 = 82"],
    "cascade": ["threshold 0.0:   0%", "threshold 1.0: 100%", "The code of Ben is 9037."],
    "many_at_once": ["3 + 8 = 11", "14 + 19 = 33", "25 + 30 = 55", "31 + 36 = 67", "42 + 47 = 89"],
    "own_models": ["The code of Ben is 9037."],
    "stream": ["cy b'"],
    "langchain/agent": ["tool   sunny", "The weather in Rome is sunny.", "37 times 12 is 444."],
    "langchain/chain": ["Mila lives in Rome.", "The code of Tom is 1202."],
    "langchain/rag": ["The pet of Tom is a parrot.", "The owner of Hotel Astor is Vera."],
    "langchain/structured": ["name='Mila' job='a baker' details=Details(age=42, city='Rome')"],
    "llama_index/agent": ["37 times 12 is 444.", "call: get_weather {'city': 'Rome'}", "sunny."],
    "llama_index/agreement": ["77[ ]- 49[ ]= [2]8"],
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


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_every_example_runs(path: Path) -> None:
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
    for said in SAYS[name_of(path)]:
        assert said in done.stdout
    assert "Traceback" not in done.stderr
