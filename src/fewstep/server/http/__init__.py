"""What stands in front: connections, access, routes, files of the page."""
