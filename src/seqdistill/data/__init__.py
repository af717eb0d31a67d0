"""The data package: files -> examples -> aligned token batches. The only package that shifts targets."""
