"""The wheel carries the recipes, and the package works from any folder."""

import ast
import csv
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import linknet_fastai
from linknet_fastai.config.recipe import recipe_folder, recipe_names

ROOT = Path(__file__).parent.parent


def test_a_wheel_built_offline_finds_its_recipes_from_another_folder(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", ROOT, "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    subprocess.run([*build, "-w", tmp_path / "wheel"], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    target = tmp_path / "target"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = (
        "from linknet_fastai.config.recipe import load_recipe, recipe_folder, recipe_names\n"
        "print(recipe_folder()); print(*recipe_names()); print(len(load_recipe('camvid').splits['train'].stems))\n"
        "import linknet_fastai.data.street\n"
    )
    (tmp_path / "elsewhere").mkdir()
    # -P keeps the working folder off the path, PYTHONPATH goes before the checkout's editable install.
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "elsewhere",
        env={"PYTHONPATH": str(target)},
    )
    folder, names, stems = result.stdout.splitlines()
    assert Path(folder) == target / "linknet_fastai" / "data_recipes"
    assert names.split() == recipe_names()
    assert stems == "367"


def test_the_checkout_finds_its_recipes_at_its_top():
    assert recipe_folder() == ROOT / "data_recipes"


def test_everything_that_the_package_offers_can_be_imported():
    for name in linknet_fastai.__all__:
        assert getattr(linknet_fastai, name) is not None


def test_type_checkers_see_the_names_that_are_imported_on_first_use():
    tree = ast.parse(Path(linknet_fastai.__file__).read_text())
    shown = {
        name.asname: node.module.removeprefix("linknet_fastai.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("linknet_fastai.")
        for name in node.names
    }
    assert shown == linknet_fastai._HOMES


def test_python_dash_m_is_the_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "linknet_fastai", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout == f"linknet-fastai {linknet_fastai.__version__}\n"


def test_every_package_that_is_imported_is_a_declared_dependency():
    imported = set()
    for file in (ROOT / "linknet_fastai").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    distributions = {"PIL": "pillow", "tomli_w": "tomli-w", "yaml": "pyyaml", "google": "protobuf"}
    distributions |= {"huggingface_hub": "huggingface-hub"}
    needed = {distributions.get(name, name) for name in imported - sys.stdlib_module_names - {"linknet_fastai"}}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + [line for name in extras if name != "dev" for line in extras[name]]
    assert needed <= {re.match(r"[\w-]+", line)[0] for line in declared}


def printed_tables(script: str) -> dict[str, list[str]]:
    """The tables that a script prints, by the page that they belong to."""
    made = subprocess.run([sys.executable, ROOT / "tools" / script], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    tables: dict[str, list[str]] = {}
    page = ""
    for part in made.stdout.strip().split("\n\n"):
        if part.startswith("|"):
            tables[page].append(part)
        else:
            page = part
            tables[page] = []
    return tables


@pytest.mark.parametrize(
    ("script", "counts"),
    [
        ("accuracy_tables.py", {"README.md": 1, "docs/results.md": 4, "results/README.md": 2}),
        ("speed_tables.py", {"README.md": 1, "docs/results.md": 5}),
    ],
)
def test_every_table_is_on_its_page_as_the_kept_results_give_it(script: str, counts: dict[str, int]) -> None:
    tables = printed_tables(script)
    assert {page: len(found) for page, found in tables.items()} == counts
    for page, found in tables.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for table in found:
            assert f"\n\n{table}\n" in text, f"{page} lacks this table: run python tools/{script}\n{table}"


def test_the_log_of_experiments_has_every_kept_run_with_its_score():
    with (ROOT / "results" / "experiments.csv").open(newline="", encoding="utf-8") as file:
        logged = {
            row["run"]: row["left_out_miou_last"] or row["val_miou"] for row in csv.DictReader(file) if row["run"]
        }
    last = {}
    for metrics in (ROOT / "results" / "runs").glob("*/metrics.csv"):
        with metrics.open(newline="", encoding="utf-8") as file:
            last[metrics.parent.name] = list(csv.DictReader(file))[-1]["miou"]
    assert logged == last
