"""Servers in processes of their own, to be killed and frozen: imports everything once, then forks one for every order.

Orders are lines of JSON on standard input, options of `ServeOptions`; the answer is the new server's process id. Two keys
are the host's own: ``hold`` names a file that keeps the server warming up for as long as it exists.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.inference.pipeline import Pipeline
from fewstep.provenance.options import Signing
from fewstep.server import app
from fewstep.server.limits import Limits
from serving_helpers import tiny_bundle


def slowly(gate: Path) -> Callable[[app.ServeOptions], Any]:
    """`openers` of a model that takes as long to open as the file is there."""
    quick = app.openers

    def openers(options: app.ServeOptions) -> Any:
        def open_(report: Callable[[str], None]) -> Any:
            report("opening a large model")
            while gate.exists():
                time.sleep(0.02)
            return quick(options)[0](report)

        return [open_]

    return openers


def serve(order: dict[str, Any], model: str) -> None:
    if hold := order.pop("hold", None):
        app.openers = slowly(Path(hold))
    if order.pop("narrow", False):  # as behind a proxy that takes less than a picture of the model's own size
        app.check_sizes = lambda *_: None
    limits = Limits(**order.pop("limits", {}))
    signing = Signing(provenance=order.pop("provenance", True))
    app.serve(app.ServeOptions(model=order.pop("model", model), backends=("eager",), limits=limits, signing=signing, **order))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are nobody's concern
    model = str(tiny_bundle())
    Pipeline.open(Path(model))
    print("up", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # what a server prints is not an answer
            try:
                serve(json.loads(line), model)
            finally:
                os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
