"""What a visitor has chosen, its link, and the board of jobs."""
