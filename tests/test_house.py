"""The house stays one a stranger can live in: layers, sizes, no circles. Read from the source."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gac_core", "gac_integrations")
# From low to high: what stands in a line imports from lines before it, and from its own.
LAYERS: list[tuple[str, ...]] = [
    ("gac_core.errors",),
    ("gac_core.tokens",),
    ("gac_core.grammar",),
    ("gac_core.method_specs", "gac_core.registry", "gac_core.flat_options"),
    ("gac_core.sampling_params", "gac_core.member_config", "gac_core.config"),
    ("gac_core.config_template",),
    ("gac_core.outputs",),
    ("gac_core.chat",),
    ("gac_core.members",),
    ("gac_core.fusion",),
    ("gac_core.decoding",),
    ("gac_core.methods",),
    ("gac_core.engine",),
    ("gac_core.pocket",),  # a name for three folders; its training is a program above all else
    ("gac_core.runtime", "gac_core.decisions", "gac_core.ensemble"),
    ("gac_core.evaluation",),
    ("gac_core.testing",),
    ("gac_core.cli",),
    ("gac_integrations.shared",),
    ("gac_integrations.langchain", "gac_integrations.llama_index", "gac_integrations.server"),
]
# The one arrow upward: a command whose work is an integration imports it when it is called.
CALLED_UPWARD = ("gac_core.cli.serve", ("gac_integrations.server", "gac_integrations.shared"))
# Who may know the embedded ensemble: what makes it by name, and the command's defaults.
KNOWS_POCKET = ("gac_core.ensemble", "gac_core.cli")
# What the tests of the adapters need besides.
FLOOR_OF_TESTS = ("langchain", "langchain-tests", "pytest", "pytest-asyncio")
MOST_LINES = 450
MOST_LINES_OF_A_FUNCTION = 70


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of every module, by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(name: str) -> Iterator[str]:
    """The modules of ours that one imports: in functions and for type checkers, too."""
    known = modules()
    for node in ast.walk(known[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def layer(name: str) -> int | None:
    """How high a module stands; None for the packages' own namespaces."""
    return next(
        (
            floor
            for floor, names in enumerate(LAYERS)
            if any(name == n or name.startswith(n + ".") for n in names)
        ),
        None,
    )


def test_every_module_has_a_layer() -> None:
    roots = {"gac_core", "gac_integrations"}
    assert [name for name in modules() if layer(name) is None and name not in roots] == []


def test_nothing_imports_upward() -> None:
    upward = [
        (name, other)
        for name in modules()
        for other in imports(name)
        if (low := layer(name)) is not None
        and (high := layer(other)) is not None
        and high > low
        and not name.startswith("gac_core.pocket.")  # programs: training, questions
        and not (name == CALLED_UPWARD[0] and other.startswith(CALLED_UPWARD[1]))
    ]
    assert upward == []


def test_the_arrow_upward_is_followed_only_when_the_command_is_called() -> None:
    at_the_top = [node for node in modules()[CALLED_UPWARD[0]].body if is_import(node)]
    assert at_the_top
    assert not any("gac_integrations" in ast.unparse(node) for node in at_the_top)


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def test_nothing_inside_uses_the_public_names() -> None:
    """They are loaded when they are used, so they would hide an import upward."""
    inside = [
        name for name in modules() if name.startswith("gac_core.") and "gac_core" in imports(name)
    ]
    assert inside == []


def test_there_is_no_circle_of_imports() -> None:
    graph = {
        name: {other for other in imports(name) if other != name}
        for name in modules()
        if name not in PACKAGES  # whose names are loaded when they are used
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name in done or name not in graph:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_only_few_know_the_pocket_ensemble() -> None:
    knowing = {
        name
        for name in modules()
        if not name.startswith("gac_core.pocket")
        and any(other.startswith("gac_core.pocket") for other in imports(name))
    }
    assert all(name.startswith(KNOWS_POCKET) for name in knowing), knowing


def test_configuration_names_no_method() -> None:
    source = (ROOT / "gac_core/config.py").read_text(encoding="utf-8")
    literals = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert literals & {"cascade", "safe", "chared", "twist", "co_llm"} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_are_short(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MOST_LINES, f"{path} has {len(lines)} lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= MOST_LINES_OF_A_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_a_request_is_no_god() -> None:
    tree = modules()["gac_core.decoding.request"]
    (request,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Request")
    assert (request.end_lineno or 0) - request.lineno < 250


def test_the_layers_are_the_order_in_which_folders_are_read() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    folders = [n.rpartition(".")[2] for names in LAYERS for n in names if is_folder(n)]
    places = [text.find(f"{name}/ ") for name in folders]
    assert -1 not in places, dict(zip(folders, places, strict=True))
    assert all(a < b for a, b in pairwise(places)), folders


def is_folder(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


def test_the_floor_is_what_the_project_declares() -> None:
    """Lowest versions are tested, or they are hopes; torch apart (constraints-floor.txt)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["langchain"], *extras["llama-index"]]
    declared = dict(line.split(">=") for line in [*needed, *extras["dev"]] if ">=" in line)
    pins = (ROOT / "constraints-floor.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in pins if not line.startswith("#"))
    assert set(pinned) == {*(line.split(">=")[0] for line in needed), *FLOOR_OF_TESTS}
    for name, version in pinned.items():
        least = declared[name].split(".")
        assert name == "torch" or version.split(".")[: len(least)] == least, name
        assert name == "torch" or set(version.split(".")[len(least) :]) <= {"0"}, name
