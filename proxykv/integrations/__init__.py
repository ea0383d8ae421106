"""Front doors for other programs."""
