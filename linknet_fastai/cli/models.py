"""`models`: the models in this package."""

from typing import Annotated

from linknet_fastai.cli.options import typer_command
from linknet_fastai.config.size import format_size
from linknet_fastai.core.errors import UsageError


@typer_command
def models(
    show: Annotated[str | None, "Print what a model was trained on, its terms and scores.", "NAME"] = None,
) -> None:
    """List the models in this package, with the time that each takes for a frame here, or print the card of one."""
    from linknet_fastai.cli.terminal import console, show_table, working
    from linknet_fastai.core.files import MAX_LIST_BYTES, read_text
    from linknet_fastai.core.text import did_you_mean, printable
    from linknet_fastai.model.named import model_folder, model_names, shipped_card

    if show is not None:
        if show not in model_names():
            raise UsageError(f"--show: no model {show!r}{did_you_mean(show, model_names())}")
        print(printable(read_text(model_folder() / f"{show}.md", MAX_LIST_BYTES), keep="\n"), end="")
        return
    rows = []
    with working("measuring"):
        from linknet_fastai.export.benchmark import frame_ms

        for name in model_names():
            file, card = model_folder() / f"{name}.safetensors", shipped_card(name)
            size = f"{file.stat().st_size / 2**20:.1f}"
            rows.append((name, card.recipe, len(card.classes), format_size(card.size), size, f"{frame_ms(file):.1f}"))
    show_table(("model", "recipe", "classes", "size", "MiB", "ms a frame here"), rows)
    console.print("predict with: linknet-fastai predict NAME photo.jpg; data, terms and scores: models --show NAME")
