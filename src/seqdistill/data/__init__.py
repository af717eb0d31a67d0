"""The data room: files -> examples -> aligned token batches. The only room that shifts targets."""
