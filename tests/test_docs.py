"""The docs say what the code does: tables, paths, links, code blocks.

``python -m tests.test_docs`` prints the table of methods for docs/methods.md.
"""

import ast
import importlib
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gac_core import Ensemble, EnsembleConfig
from gac_core.cli.app import main
from gac_core.method_specs import PRESETS, MethodSpec
from gac_core.registry import FUSIONS, METHODS, WEIGHTINGS

ROOT = Path(__file__).parents[1]
METHODS_PAGE = ROOT / "docs/methods.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_PATH = re.compile(r"\b(?:gac_core|gac_integrations|examples|benchmarks|docs)/[\w./-]*\w")
_NAME = re.compile(r"`(?:python -m )?((?:gac_core|gac_integrations|benchmarks)(?:\.\w+)+)")


def page_id(page: Path) -> str:
    return page.stem


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in _BLOCK.findall(page.read_text()) if name == language]


# ---------------------------------------------------------------- tables


def row_of(spec: MethodSpec) -> str:
    """A method as a row of the table of methods."""
    summary = f"{spec.summary} ([paper]({spec.paper}))"
    return f"| `{spec.name}` | {summary} | {options_of(spec)} | {refusals_of(spec)} |"


def options_of(spec: MethodSpec) -> str:
    try:
        spec.options()
        has_defaults = True
    except ValidationError:
        has_defaults = False
    shown = []
    for name, field in spec.options.model_fields.items():
        is_needed = field.default is None and not has_defaults
        value = "needed" if is_needed else default_of(field)
        shown.append(f"`{name}` ({value}): {field.description}")
    return "<br>".join(shown)


def default_of(field: FieldInfo) -> str:
    default = "none" if field.default is None else str(field.default)
    if get_origin(field.annotation) is Literal:
        others = [str(choice) for choice in get_args(field.annotation) if choice != field.default]
        return f"{default}; or {', '.join(others)}"
    return default


def refusals_of(spec: MethodSpec) -> str:
    refused = [f"`{name}`" for name in spec.ignores]
    if not spec.scores_text:
        refused += [f"`weighting: {n}`" for n in WEIGHTINGS.builtin if WEIGHTINGS.get(n).reads_text]
    if spec.refuses:
        refused.append(spec.refuses)
    return ", ".join(refused)


def table_of_methods() -> str:
    return "\n".join(row_of(METHODS.get(name)) for name in METHODS.builtin)


def rows_under(heading: str) -> list[str]:
    """The rows of the table of methods.md whose head begins so, without the head."""
    lines = METHODS_PAGE.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    end = next(n for n in range(start, len(lines)) if not lines[n].startswith("|"))
    return lines[start + 2 : end]


def test_the_table_of_methods_is_that_of_their_specs() -> None:
    assert "\n".join(rows_under("`method`")) == table_of_methods()


@pytest.mark.parametrize(("heading", "names"), [("`fusion`", FUSIONS), ("`weighting`", WEIGHTINGS)])
def test_every_rule_and_weighting_has_its_row(heading: str, names: Any) -> None:
    rows = [row.split("`")[1] for row in rows_under(heading)]
    assert [name for name in rows if name != "auto"] == list(names.builtin)
    assert ("auto" in rows) == (EnsembleConfig.model_fields[heading.strip("`")].default == "auto")


def test_every_preset_is_named() -> None:
    (line,) = (s for s in METHODS_PAGE.read_text().splitlines() if "presets for `method`" in s)
    assert [name for name in PRESETS if f"`{name}`" not in line] == []


# ---------------------------------------------------------------- paths, names and links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_exist(page: Path) -> None:
    paths = set(_PATH.findall(page.read_text()))
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_dotted_names_exist(page: Path) -> None:
    for name in sorted(set(_NAME.findall(page.read_text()))):
        assert is_name(name), f"{name} is nowhere"


def is_name(name: str) -> bool:
    """Whether it is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    if (ROOT / name.replace(".", "/")).is_dir() or (
        ROOT / f"{name.replace('.', '/')}.py"
    ).is_file():
        return True
    return bool(module) and hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tests_that_are_named_exist(page: Path) -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert [name for name in sorted(names) if f"def {name}(" not in code] == []


def tree() -> Iterator[str]:
    """The paths that the tree in architecture.md draws."""
    (drawn,) = (text for text in blocks(ARCHITECTURE, "text") if text.startswith("gac_core/"))
    top = ""
    for line in drawn.splitlines():
        names = line.split("  ", 1)[0] if not line.startswith(" ") else line[2:].split("  ", 1)[0]
        if not line.startswith(" "):
            top = names
            continue
        yield from (top + name for name in names.split(", "))


def test_the_tree_is_the_tree() -> None:
    drawn = set(tree())
    there = {
        f"{top.name}/{path.name}/" if path.is_dir() else f"{top.name}/{path.name}"
        for top in (ROOT / "gac_core", ROOT / "gac_integrations")
        for path in top.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert drawn == {path for path in there if not path.endswith("__init__.py")}


# ---------------------------------------------------------------- code


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_is_code(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for text in blocks(page, "toml"):
        tomllib.loads(text)


@pytest.mark.slow
def test_the_page_of_methods_runs_from_top_to_bottom() -> None:
    """Every block of Python in one session, then its YAML, with what the session registered."""
    session: dict[str, Any] = {}
    with METHODS.scoped(), FUSIONS.scoped(), WEIGHTINGS.scoped():
        for code in blocks(METHODS_PAGE, "python"):
            exec(code, session)
        configurations = [yaml.safe_load(text) for text in blocks(METHODS_PAGE, "yaml")]
        methods = [EnsembleConfig.of(c).method for c in configurations]
        assert methods == ["safe", "every_step", "surest"]
    (points,) = (tomllib.loads(text) for text in blocks(METHODS_PAGE, "toml"))
    assert list(points["project"]["entry-points"]) == ["gac.method", "gac.fusion", "gac.weighting"]


@pytest.mark.slow
def test_the_page_of_tracing_runs_and_prints_what_it_shows() -> None:
    """In a process of its own, which may set a tracer provider only once."""
    page = ROOT / "docs/tracing.md"
    (code,), (shown,) = blocks(page, "python"), blocks(page, "text")
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    first, last = (
        json.loads(text) for text in re.split(r"(?<=^})\n(?={$)", done.stdout, flags=re.MULTILINE)
    )
    assert (first["name"], last["name"]) == ("chat ada+bo+cy", "sums")
    assert first["parent_id"] == last["context"]["span_id"]
    said = json.loads("{" + shown.partition(",\n...")[0] + "}")
    said["gac.member.ada.seconds"] = first["attributes"]["gac.member.ada.seconds"]
    assert said.items() <= first["attributes"].items()


@pytest.mark.slow
def test_the_page_of_serving_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Against a server of the app that the page makes."""
    from tests.integrations.test_server_clients import running

    asks, makes = blocks(ROOT / "docs/serving.md", "python")
    session: dict[str, Any] = {}
    exec(makes, session)
    with session["ensemble"], running(session["app"]) as url:
        wait_until_loaded(session["ensemble"])
        exec(asks.replace("http://127.0.0.1:8000", url), session)
        session["client"].close()
    shown = capsys.readouterr().out
    assert "2 ['2', '2', '3']\n" in shown
    assert shown.endswith("77 - 49 = 28")


def wait_until_loaded(ensemble: Ensemble) -> None:
    while not ensemble.is_loaded:
        time.sleep(0.01)


@pytest.mark.slow
def test_the_options_of_serving_are_those_of_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    options = set(re.findall(r"(--[a-z-]+)", capsys.readouterr().out)) - {"--help"}
    page = (ROOT / "docs/serving.md").read_text()
    assert {option for option in options if f"`{option}" not in page} == set()


if __name__ == "__main__":
    print(table_of_methods())
