"""What can be trained, a file each. A module here that has `CONFIG` and `TASK` is a task of its own name."""
