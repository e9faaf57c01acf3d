"""A federation on one machine: the same method code and the same bytes, one base model in memory."""
