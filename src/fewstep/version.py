"""The version: below everything, so that any file may say it."""

__version__ = "0.1.0"
