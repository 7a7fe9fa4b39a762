"""Runs in a judge's own process: reads a request, loads the judge's file, answers in JSON lines. Never imported by fewstep.

``docs/judges.md`` has the protocol. What the judge and its packages print goes to stderr: stdout is for answers alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import types
from typing import Any


def module_of(name: str, folders: dict[str, list[str]]) -> Any:
    """The judge's file. Packages above it stand for their folders only: what they do when imported is not done here."""
    for package, paths in folders.items():
        stub = types.ModuleType(package)
        stub.__path__ = paths
        sys.modules[package] = stub
    return importlib.import_module(name)


def answer(request: dict[str, Any], say: Any) -> None:
    """Do what the request asks for."""
    if request["path"]:
        sys.path[:] = request["path"]
    module = module_of(request["module"], request["packages"])
    kit = importlib.import_module("fewstep.judges.kit")
    say({"doing": "loading"})
    if request["tiny"]:
        module.tiny(request["weights"])
    pictures, prompts = request["pictures"], request["prompts"]
    asked = kit.Asked(request["name"], request["weights"], request["device"], request["against"], request["options"])
    judge = module.load(asked)
    say({"resizer": str(getattr(judge, "resizer", "")), "fingerprint": str(getattr(judge, "fingerprint", ""))})
    rows = kit.FeaturesFile(request["features"], len(pictures)) if request["features"] else None
    number = 0
    for number, value in enumerate(judge(pictures, prompts), 1):
        if rows is None:
            say({"picture": number - 1, "score": float(value)})
        else:
            rows.add(value)
            say({"picture": number - 1})
    if rows is not None:
        rows.close()
    say({"done": number})


def main() -> None:
    """One request on stdin, answers on stdout."""
    del sys.path[0]  # this file's folder: its names are nobody's modules
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        answer(json.loads(sys.stdin.buffer.read()), say)
    except ValueError as error:
        traceback.print_exc()
        say({"error": str(error)})
        sys.exit(2)


if __name__ == "__main__":
    main()
