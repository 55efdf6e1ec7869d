"""Where everything lies on a disk, and the file systems and images that are put there."""
