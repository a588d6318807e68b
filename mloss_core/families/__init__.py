"""A family on disk: layout, schema, heads, datasets' files, downloads, checks."""
