"""Comments from files: formats told apart by content, read in pieces, and fed to the pipeline."""
