"""Package managers, their databases and locks, and what is known of every package."""
