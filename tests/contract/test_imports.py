"""Rules of imports: a package imports only what it may, and a heavy library is imported only where it belongs."""

import ast
from pathlib import Path

from tests.support import ROOT

PACKAGES = ("classifier", "client", "service", "training")
OF_OTHERS = {"tests", "scripts", "examples", "benchmarks"}
"""Folders that may import everything, and that no package imports."""

FORBIDDEN = {
    "classifier": {"service", "training", "client"},
    "client": {"classifier", "service", "training"},
    "service": {"training", "client"},
    "training": {"service", "client"},
}

ALLOWED = {
    "classifier": ("classifier/", "training/", "service/"),
    "torch": ("classifier/", "training/", "service/model/"),
    "transformers": ("classifier/", "training/"),
    "fastapi": ("service/",),
    "starlette": ("service/",),
    "httpx": ("client/",),
    "h11": ("client/transport/two_way.py",),
    "rich": ("client/",),
    "streamlit": ("client/page/app.py",),
    "boto3": ("training/sagemaker/launch/aws.py", "client/transport/sagemaker.py"),
    "botocore": ("training/sagemaker/launch/", "client/transport/sagemaker.py"),
}
"""The folders and files in which a library may be imported, also inside functions."""

TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in [ROOT / "gpt2_classifier.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
}


def imports(tree: ast.AST) -> set[str]:
    """Return the first parts of the names of all modules that a module imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.module and not node.level else "a relative import")
    return {name.split(".")[0] for name in names}


def test_packages_import_in_one_direction() -> None:
    wrong = {
        (file, name)
        for file, tree in TREES.items()
        for name in imports(tree) & (FORBIDDEN.get(file.split("/")[0], set()) | OF_OTHERS | {"a relative import"})
    }
    assert not wrong


def test_heavy_libraries_are_imported_where_they_belong() -> None:
    wrong = {
        (file, name)
        for file, tree in TREES.items()
        for name in imports(tree) & set(ALLOWED)
        if not file.startswith(ALLOWED[name])
    }
    assert not wrong


def test_environment_is_read_in_settings_modules_only() -> None:
    reading = {
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {a.name for a in node.names} & {"environ", "getenv"}
        )
    }
    assert reading and {Path(file).name for file in reading} == {"settings.py"}


def test_every_rule_is_in_use() -> None:
    assert len(TREES) > 100
    assert set().union(*map(imports, TREES.values())) >= set(ALLOWED)
