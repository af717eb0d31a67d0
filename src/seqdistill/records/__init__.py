"""What a run leaves on disk: whole files, the run directory, fingerprints, facts of the machine.

Knows neither recipes nor tensors; imports no torch.
"""
