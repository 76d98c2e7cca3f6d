"""The page that `serve` sends and `export --format web` writes: its files, in `templates/page`, and what it shows."""

from importlib import resources
from typing import Any, Literal

from linknet_fastai.config.size import SMALLEST_SIDE
from linknet_fastai.model.card import ModelCard

INFO = "model.json"
PAGE = ("index.html", "style.css", "disk.js", "page.js", "overlay.js", "sources.js")
# What predicts: the browser itself, or the server that sent the page.
ENGINES = {"browser": ("browser.js", "worker.js", "resize.js", "runtime/LICENSE.txt"), "server": ("server.js",)}
EngineOfPage = Literal["browser", "server"]


def page_files(engine: EngineOfPage) -> dict[str, bytes]:
    """The files of the page by their names, without its `model.json`.

    Example:
        >>> list(page_files("server"))
        ['index.html', 'style.css', 'disk.js', 'page.js', 'overlay.js', 'sources.js', 'server.js']
    """
    folder = resources.files("linknet_fastai.predict") / "templates" / "page"
    return {name: (folder / name).read_bytes() for name in PAGE + ENGINES[engine]}


def page_info(engine: EngineOfPage, card: ModelCard) -> dict[str, Any]:
    """What `model.json` says for either engine."""
    return {
        "engine": engine,
        "recipe": card.recipe,
        "size": list(card.size),
        "fit": card.fit,
        "smallest_side": SMALLEST_SIDE,
        "classes": [{"name": entry.name, "color": list(entry.color)} for entry in card.classes],
    }
