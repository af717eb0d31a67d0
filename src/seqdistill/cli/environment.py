"""The command `env`: what to paste into a bug report."""

from __future__ import annotations

from seqdistill.cli.screen import say_aligned


def env() -> None:
    """Versions and machine, for bug reports."""
    from seqdistill.records.environment import environment_facts

    facts = environment_facts()
    rows = [(name, str(value)) for name, value in facts["versions"].items()]
    machine = facts["machine"]
    rows += [(name, str(value)) for name, value in machine.items() if name != "memory_bytes"]
    rows.append(("memory", f"{int(machine['memory_bytes']) / 2**30:.1f} GiB"))
    say_aligned(rows)
