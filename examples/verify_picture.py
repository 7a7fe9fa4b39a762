"""Was a picture generated? Draw one, ask, take its credentials away as many web pages do, and ask again.

    python examples/verify_picture.py              # a picture that is drawn now
    python examples/verify_picture.py photo.jpg    # one of yours
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from fewstep.cli import main as fewstep
from fewstep.provenance.verify import verify


def ask(path: Path) -> None:
    """Print all that is found out about one file."""
    verdict = verify(path)
    print(f"{path}: {'made by a model' if verdict.ai_generated else 'nothing says that a model made it'}")
    for sentence in verdict.sentences:
        print(f"    {sentence}")


def main() -> None:
    """Ask about the file that is named, or about one that is drawn."""
    if len(sys.argv) > 1:
        return ask(Path(sys.argv[1]))
    drawn, bare = Path("out/verify.png"), Path("out/verify_bare.jpg")
    fewstep(["draw", "a red heart", "--seed", "7", "--output", str(drawn)])
    ask(drawn)
    Image.open(drawn).save(bare, quality=85)  # new pixels, and no credentials
    return ask(bare)


if __name__ == "__main__":
    main()
