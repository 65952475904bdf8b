"""What `lesa` does for one's own checkpoint, a function a command. DVC is not needed."""
