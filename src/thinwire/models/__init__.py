"""Base models: where they come from, what is adapted in them, heads, merging."""
