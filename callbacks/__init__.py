"""What is measured, drawn and saved; none of it changes a codec."""
