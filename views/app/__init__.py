"""The frame around every page: shell, header, style, introduction."""
