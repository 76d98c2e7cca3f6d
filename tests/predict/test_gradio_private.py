"""What this package uses of Gradio without Gradio documenting it is still there and still has the effect."""

import asyncio
import re
from pathlib import Path

import gradio as gr
import pytest
from gradio import processing_utils, routes
from PIL import Image

from linknet_fastai.predict.gradio_private import accept_uploads_only, keep_inside_page, set_temporary_folder

# The routes of Gradio that accept data. Before one is added here: does it keep or fetch files? Then refuse it in
# `refuse_other_requests`.
POST_ROUTES = [
    "api/{api_name}",
    "call/v2/{api_name}",
    "call/{api_name}",
    "cancel",
    "component_server",
    "login",
    "process_recording",
    "queue/join",
    "reset",
    "run-history/connect",
    "run/{api_name}",
    "stream/{event_id}",
    "stream/{event_id}/close",
    "undo-vibe-edit",
    "upload",
    "vibe-code",
    "vibe-edit",
    "vibe-starter-queries",
]


def moved(block: gr.blocks.Block, path: str) -> dict:
    """A file of a request or of an answer as Gradio passes it on."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return asyncio.run(processing_utils.async_move_files_to_cache(file, block))


def test_gradio_asks_the_replaced_method_for_files(tmp_path: Path) -> None:
    (uploaded := tmp_path / "a.png").touch()
    accept_uploads_only(file := gr.File())
    with pytest.raises(gr.Error, match="drop it again"):
        moved(file, "http://127.0.0.1:9/a.png")
    assert moved(file, str(uploaded))["path"] == str(uploaded)
    assert moved(gr.File(), str(uploaded))["path"] != str(uploaded)  # what Gradio does by itself


def test_an_image_inside_the_page_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    keep_inside_page(picture := gr.Image(), "class-map", "PNG")
    assert picture.postprocess(None) is None
    sent = picture.postprocess(Image.new("RGB", (4, 4))).model_dump()
    assert sent["url"].startswith("data:image/png;base64,")
    assert (sent["orig_name"], sent["path"]) == ("class-map.png", None)
    assert list(tmp_path.rglob("*.png")) == []
    gr.Image().postprocess(Image.new("RGB", (4, 4)))
    assert list(tmp_path.rglob("*")) != []  # what Gradio does by itself


def test_gradio_makes_its_folders_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "DEFAULT_TEMP_DIR", routes.DEFAULT_TEMP_DIR)
    set_temporary_folder(str(tmp_path))
    with gr.Blocks() as blocks:
        gr.Markdown()
    routes.App.create_app(blocks)
    assert [path.name for path in tmp_path.iterdir()] == ["vibe_edit_history"]


def test_gradio_has_no_new_routes_that_accept_data() -> None:
    with gr.Blocks() as blocks:
        gr.Markdown()
    paths = routes.App.create_app(blocks).openapi()["paths"]
    posted = {re.sub("^/(gradio_api/)?|/$", "", path) for path, methods in paths.items() if "post" in methods}
    assert {"upload", "process_recording"} <= posted
    assert posted <= set(POST_ROUTES), posted - set(POST_ROUTES)
    assert any("proxy=" in path for path in paths), (
        "the route that fetches a URL was renamed: see refuse_other_requests"
    )
