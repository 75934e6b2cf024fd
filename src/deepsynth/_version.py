"""The version, in a module that imports nothing: the build reads it from here, and so does the rest of the package."""

__version__ = "0.1.0"
