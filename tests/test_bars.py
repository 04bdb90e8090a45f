"""What a bar leaves where stderr is no terminal, and that it is missed by nobody."""

from __future__ import annotations

import sys

import pytest

from ffrl.bars import counted


@pytest.mark.parametrize("stays", [True, False])
def test_a_bar_leaves_its_last_state_or_nothing(stays: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with counted("pictures", 40, stays=stays) as advance:
        advance(12)
        advance(25)
    out, err = capsys.readouterr()
    assert out == "" and ("37/40" in err and "pictures" in err if stays else err.strip() == "")


def test_without_rich_there_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with counted("pictures", 4) as advance:
        advance(4)
    assert capsys.readouterr().err == ""


def test_an_error_passes_through() -> None:
    with pytest.raises(KeyError), counted("pictures", 4, stays=False):
        raise KeyError
