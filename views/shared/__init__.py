"""What several pages draw with: widgets, figures, readouts, block picker, theme, navigation."""
