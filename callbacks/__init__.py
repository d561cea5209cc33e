"""Lightning callbacks: what is measured, drawn and saved; none of them changes a codec."""
