"""Everything that this package uses of Gradio without Gradio documenting it. Tests fail when Gradio changes it."""

from pathlib import Path
from typing import Any

from PIL import Image

from linknet_fastai.core.errors import import_optional
from linknet_fastai.core.images import data_url
from linknet_fastai.model.card import ModelCard

gr, fastapi = import_optional("gradio", "demo"), import_optional("fastapi", "demo")


def accept_uploads_only(file: Any) -> None:
    """Make a `gradio.File` read uploaded files alone.

    Gradio's own method, which this replaces, also downloads the URL that a request names, of any size.
    """

    async def uploaded(path: str) -> str:
        if not Path(path).is_file():
            raise gr.Error("this file no longer exists: drop it again", print_exception=False)
        return path

    # Set on the instance, because Gradio writes a .pyi file next to the source of a subclass.
    file.async_move_resource_to_block_cache = uploaded


def keep_inside_page(picture: Any, name: str, kind: str, **options: Any) -> None:
    """Make a `gradio.Image` send its value inside the page; by default Gradio writes a file for it.

    Args:
        picture: the component.
        name: the file name, without suffix, when the image is downloaded.
        kind: "JPEG" or "PNG".
        options: see `data_url`.
    """

    def inside_page(value: Image.Image | None) -> Any:
        if value is None:
            return None
        return gr.data_classes.ImageData(url=data_url(value, kind, **options), orig_name=f"{name}.{kind.lower()}")

    picture.postprocess = inside_page


def set_temporary_folder(folder: str) -> None:
    """Set the folder that Gradio has read from GRADIO_TEMP_DIR when it was imported."""
    gr.routes.DEFAULT_TEMP_DIR = folder


# FastAPI reads the annotation, mypy knows nothing of a module that is imported by its name.
def refuse_other_requests(request: fastapi.Request) -> None:  # type: ignore[name-defined]
    """Refuse what Gradio serves beyond the page: fetching files from elsewhere, recordings of any size."""
    if "://" in request.url.path or "recording" in request.url.path:
        raise fastapi.HTTPException(403)


# Without FastAPI's pages that list the routes.
APP_OPTIONS = {"dependencies": [fastapi.Depends(refuse_other_requests)], "docs_url": None, "redoc_url": None}

# For elements that Gradio makes.
CSS = """
#classes [data-testid='checkbox-group'] {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
#classes [data-testid='checkbox-group'] span::before {
  content: ''; display: inline-block; width: 1em; height: 1em; margin-right: .5em; vertical-align: -.1em;
  border-radius: .25em; box-shadow: 0 0 0 1px #8888; }
.image-frame { width: 100%; }
.image-frame img { width: 100%; object-fit: contain; }
/* So that the legend below is visible without scrolling. */
:not(.fullscreen) > .image-container .image-frame img { max-height: 55vh; }
#class-map img { image-rendering: pixelated; }
"""


def style(card: ModelCard) -> str:
    """The CSS of the page: small pictures are enlarged, and each class of the legend has a square of its color."""
    label = "#classes [data-testid='checkbox-group'] label"
    colors = [
        f"{label}:nth-of-type({number}) span::before {{ background: {entry.css_color}; }}"
        for number, entry in enumerate(card.classes, 1)
    ]
    return CSS + "\n".join(colors)
