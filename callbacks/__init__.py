"""Lightning callbacks that measure, draw and save; none changes a codec."""
