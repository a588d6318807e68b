"""Every checkpoint format to open_clip's tensor names; nothing in a file is ever executed."""
