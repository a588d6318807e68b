"""Modules that the app's pages share: figures, jobs, session state and widgets."""
