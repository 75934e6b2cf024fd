"""Every use of a private name of another library, one file a library, each with the reason."""
