"""Stories of what people, disks and crowds do to the project; scripts/torture.py is the command."""
