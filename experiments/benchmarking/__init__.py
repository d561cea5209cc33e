"""Speed of a codec, and where its time goes."""
