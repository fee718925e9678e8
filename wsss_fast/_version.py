"""The version, in one place: read by the build, the package and the compiled module."""

__version__ = "0.1.0"
