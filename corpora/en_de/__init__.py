"""Builder of the bundled English-German software-documentation corpus."""
