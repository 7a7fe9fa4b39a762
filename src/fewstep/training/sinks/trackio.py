"""trackio, Hugging Face's local tracker: a run a phase, in the project ``fewstep``; ``trackio show`` opens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from . import LoggedRun


def needs() -> tuple[str, ...]:
    """Its package."""
    return ("trackio",)


def open(run: LoggedRun, config: Mapping[str, Any]) -> Trackio:
    """Go on in the run of this name, or begin one."""
    import trackio

    made = trackio.init(project="fewstep", name=run.name, config=dict(config), resume="allow" if run.step else "never")
    return Trackio(made, run.logged if run.step else -1)


class Trackio:
    """Steps that were logged before are not logged twice."""

    def __init__(self, run: Any, logged: int) -> None:
        self._run, self._logged = run, logged

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A curve a figure."""
        if step > self._logged:
            self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """A picture of the step."""
        import trackio

        if step > self._logged:
            self._run.log({name: trackio.Image(image)}, step=step)

    def close(self) -> None:
        """Hand in what is left."""
        import trackio

        trackio.finish()
