"""A recipe, opened: the base with its adapters, and the examples."""
