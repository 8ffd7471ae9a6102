"""Norms and maxima as simpler operations, before sites are found."""
