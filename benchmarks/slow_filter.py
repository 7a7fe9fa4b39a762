"""A safety filter that takes its time, as one that asks a model does: for hostile.py."""

import time


class Slow:
    """100 ms a prompt; it lets everything through and looks at no pictures."""

    blind = True

    def prompt(self, text: str) -> str | None:
        """Nothing is refused."""
        time.sleep(0.1)
        return None

    def picture(self, pixels: object) -> str | None:
        """Nothing is refused."""
        return None
