"""An image's way into a slot: which one is let in, what of it is fetched, how it is written, what a slot then holds."""
