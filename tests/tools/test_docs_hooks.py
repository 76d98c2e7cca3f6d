"""What the site takes from the code: the table of settings and the names of the Python reference."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import linknet_fastai
from linknet_fastai.config.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The hooks as a module; `tools` is not a package."""
    file = ROOT / "tools" / "docs_hooks.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_path=name))


def test_the_table_has_every_setting_with_option_values_default_and_presets(hooks: ModuleType) -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    lines = hooks.on_page_markdown(text, page("settings.md")).splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `") and line.count(" | ") == 4}
    assert list(rows) == list(Settings.model_fields)
    assert all(field.description in rows[name] for name, field in Settings.model_fields.items())
    assert "| whole number \u2265 2, \u2264 4,096 | `8` |" in rows["bs"]
    assert "`--set flip=VALUE`" in rows["flip"]
    assert rows["cache"].startswith("| `cache`<br>`--cache`, `--no-cache` | Decode")
    assert "`rmsprop` in `paper`" in rows["optimizer"]
    assert "| `deconv`, `pixelshuffle` | `deconv` |" in rows["decoder"]


def test_the_reference_names_where_each_public_name_is_defined(hooks: ModuleType) -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    shown = hooks.on_page_markdown(text, page("reference.md"))
    assert "\n::: linknet_fastai.model.linknet.LinkNet\n" in shown
    assert shown.count("\n::: ") == len(linknet_fastai.__all__) - 1
    with pytest.raises(ValueError, match=r"docs/reference\.md lacks LinkNet"):
        hooks.on_page_markdown(text.replace("::: linknet_fastai.LinkNet\n", ""), page("reference.md"))


def test_examples_are_shown_as_code(hooks: ModuleType) -> None:
    assert (
        hooks.rewrite_examples("Add.\n\nExample:\n    >>> 1 + 1\n    2") == "Add.\n\nExamples:\n    >>> 1 + 1\n    2"
    )
    expected = "Add.\n\nExamples:\n    ```python\n    x = 1\n    y = 2\n    ```\nMore."
    assert hooks.rewrite_examples("Add.\n\nExample::\n\n    x = 1\n    y = 2\n\nMore.") == expected
    assert hooks.rewrite_examples("Add.\n\nExample:\n    ::\n\n        x = 1\n        y = 2\n\nMore.") == expected
