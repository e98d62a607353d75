"""What is read out of a text. Pure: no storage, no I/O."""
