"""What is on disk: the run directory, its checkpoints, and what each client keeps."""
