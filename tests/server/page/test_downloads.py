"""Downloaded files carry their credentials."""

from __future__ import annotations

from pathlib import Path

from fewstep.provenance.verify import VerifyOptions, verify
from page.studio import Host, Studio


def test_a_download_carries_its_credentials(studio: Studio, host: Host, tmp_path: Path):
    assert studio.page.locator("#badge").inner_text() == "Signed on download"
    for format, name in (("png", "fewstep-7.png"), ("jpeg", "fewstep-7.jpg"), ("webp", "fewstep-7.webp")):
        studio.page.locator("#format").select_option(format)
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        verdict = verify(tmp_path / name, VerifyOptions(home=host.home))
        assert verdict.credentials.state == "trusted"
        assert verdict.made_by_fewstep
        assert (verdict.credentials.facts["seed"], verdict.credentials.facts["steps"]) == (7, 4)
        assert "prompt" not in verdict.credentials.facts
    toast = studio.page.locator("#toast")
    studio.until(lambda: "content credentials" in toast.inner_text(), "a word about it")
    assert "prompt" not in toast.inner_text()
    for wanted, told in ((True, "a red heart"), (False, None)):
        studio.page.locator("#with-prompt").click()
        assert studio.page.locator("#with-prompt").get_attribute("aria-pressed") == str(wanted).lower()
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        download.value.save_as(tmp_path / "again.webp")
        verdict = verify(tmp_path / "again.webp", VerifyOptions(home=host.home))
        assert verdict.credentials.facts.get("prompt") == told
        assert ("prompt 'a red heart'" in str(verdict)) == wanted
        studio.until(lambda wanted=wanted: ("the prompt" in toast.inner_text()) == wanted, "a word about that, too")
