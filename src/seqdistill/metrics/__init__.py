"""Pure measures: strings or numbers in, numbers with their signatures out. No files, no models."""
