"""What the pages share: figures, jobs, the session's choice and its widgets."""
