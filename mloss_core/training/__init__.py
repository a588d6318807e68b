"""Fine-tuning of a base on a task, and what it does to merges (docs/lab.md)."""
