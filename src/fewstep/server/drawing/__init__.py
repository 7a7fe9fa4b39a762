"""From a request to pixels: the only place of the server that touches torch."""
