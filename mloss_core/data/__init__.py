"""Images and labels: pictures, tasks, datasets, prompts, calibration images."""
