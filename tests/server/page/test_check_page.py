"""The page of ``fewstep check`` in a browser, opened from the disk: everything it can hold, for everybody, at every width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewstep.evaluation import _drawing, check, check_page
from fewstep.evaluation.check_data import RealData
from known_models import four, known
from page.studio import studio_in, unfit_for


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a student beside a teacher and real pictures, at counts that its card lists and at one that it does not."""
    folder, prompts = tmp_path_factory.mktemp("check"), ("a", "no", "very_long_caption_without_any_space_to_break_it_at", "d")
    o = _drawing.Options(steps=(1, 8), wrong_steps=(1,), noises=2, calls=1)
    real = RealData("own", prompts, four().repeat(2, 1, 1, 1).split(2))
    found = check.check(known(folder, "student"), o, teacher=known(folder, "teacher"), real=real)
    (folder / "check.html").write_text(check_page.document(found, "fewstep check 'my model' --data own"))
    return folder / "check.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_check_is_for_everybody(own_browser: Any, document: Path, scheme: str):
    with studio_in(own_browser, f"check-{scheme}", color_scheme=scheme, bypass_csp=True) as tab:
        tab.page.goto(document.as_uri())
        assert tab.get("document.querySelectorAll('svg.curves').length") == 2
        assert tab.get("[...document.images].every(image => image.naturalWidth > 0)")
        tab.get("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert unfit_for(tab) == []
