"""A training in a process of its own: what it leaves in memory slows no other.

Updates of one training took a quarter longer in a process that had done many before it. What a
profile shows is time in malloc, which keeps what large tensors leave (`seqdistill.core.allocator`).
"""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from experiments.harness.runner import use_one_thread
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.recipe.schema import Recipe
from seqdistill.records.run_directory import RunDirectory


def train_apart(recipe: Recipe) -> RunDirectory:
    """Trains the recipe in a fresh process with one thread, or goes on. Raises what that raises.

    The process is forked from a server that has imported all and done nothing, which spares the
    seven seconds that imports take.
    """
    training = functools.partial(train, recipe, progress=NoProgress(), resume=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context, initializer=use_one_thread) as process:
        return process.submit(training).result()
