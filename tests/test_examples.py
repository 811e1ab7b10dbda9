import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


SAYS = {
    "answer": ["47 + 35 = 82"],
    "cascade": ["threshold 0.0:   0%", "threshold 1.0: 100%", "The code of Ben is 9037."],
    "many_at_once": ["3 + 8 = 11", "14 + 19 = 33", "25 + 30 = 55", "31 + 36 = 67", "42 + 47 = 89"],
    "own_models": ["The code of Ben is 9037."],
    "stream": ["cy b'"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs(path: Path) -> None:
    """As a user would run it, from its own folder."""
    done = subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for said in SAYS[path.stem]:
        assert said in done.stdout
    assert "Traceback" not in done.stderr
