"""What networks of images share: padding, tiles, precision."""
