"""The app in a real browser: one server and one chromium for all tests of this folder."""
