"""From TOML files to a recipe that makes sense, or to every error at once."""
