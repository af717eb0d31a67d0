"""The outputs of several teachers for the same examples, as one corpus to choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from seqdistill.sources.shards import TeacherOutput
from seqdistill.sources.teacher_corpus import TeacherCorpus


@dataclasses.dataclass(frozen=True)
class Pool(TeacherCorpus):
    """Corpora of teachers with one tokenizer: whose an output is, its rank says.

    Rank r of the teacher at place t is t * n_best + r. `folder` and `record` are the first corpus',
    the latter with the checksums of all. A teacher may have been asked about some of the examples.
    """

    corpora: tuple[TeacherCorpus, ...] = ()
    ids: Sequence[str] = ()
    """Of all examples, in order; each corpus has its own in the same order."""

    @classmethod
    def of(cls, corpora: Sequence[TeacherCorpus], ids: Sequence[str]) -> Pool:
        """The corpora, at their teachers' places, which have outputs for these examples."""
        first = corpora[0]
        checksums = {
            f"{place}/{name}": sha256
            for place, corpus in enumerate(corpora)
            for name, sha256 in corpus.record.checksums.items()
        }
        record = dataclasses.replace(first.record, num_examples=len(ids), checksums=checksums)
        return cls(first.folder, record, tuple(corpora), tuple(ids))

    def by_example(self) -> Iterator[tuple[str, list[TeacherOutput]]]:
        """Every example's id, in order, with what all of its teachers wrote."""
        streams = [corpus.by_example() for corpus in self.corpora]
        heads = [next(stream, None) for stream in streams]
        for name in self.ids:
            found: list[TeacherOutput] = []
            for place, (stream, corpus) in enumerate(zip(streams, self.corpora, strict=True)):
                head = heads[place]
                if head is None or head[0] != name:
                    continue
                first = place * corpus.record.settings.decoding.n_best
                found += [dataclasses.replace(one, rank=first + one.rank) for one in head[1]]
                heads[place] = next(stream, None)
            yield name, found

    def best(self, outputs: Sequence[TeacherOutput], count: int) -> list[TeacherOutput]:
        """So many of an example's, those with the highest log-probability a token, each under its
        own teacher; the earlier teacher's where two are equal."""
        ranked = sorted(
            outputs, key=lambda one: (-one.log_prob / max(1, len(one.token_ids)), one.rank)
        )
        return ranked[:count]
