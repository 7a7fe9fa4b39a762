"""The studio: protocol, worker, app, web page."""
