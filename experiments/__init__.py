"""The experiments: committed scripts behind the published numbers. No part of the package."""
