"""The tables of formats and engines agree with each other and with what the command line accepts."""

from typing import get_args

import pytest

from linknet_fastai.engines import formats
from linknet_fastai.engines.engine import Engine
from linknet_fastai.engines.formats import ENGINES, FORMATS, EngineName, FormatName


def test_the_command_line_offers_every_row() -> None:
    assert get_args(EngineName) == tuple(ENGINES)
    assert get_args(FormatName) == tuple(FORMATS)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_runs_the_format_that_is_exported_for_it(name: str) -> None:
    engine = ENGINES[name]
    assert name in FORMATS[engine.format].engines
    loaded = engine.load()
    assert issubclass(loaded, Engine)
    assert loaded.name == name


def test_a_format_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(entry.missing_extra for entry in FORMATS.values())
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert {name: entry.missing_extra for name, entry in FORMATS.items() if entry.missing_extra} == {
        "onnx": "onnx",
        "openvino": "openvino",
    }
