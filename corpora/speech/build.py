"""Builds a corpus of spoken sentences: `python -m corpora.speech.build FOLDER`.

Debian's espeak-ng speaks them (apt-get install espeak-ng) in several voices, speeds and pitches,
under more or less noise. The same version gives the same recordings. Sentences nearly the same as
one of another part are left out; what takes
longer than `--longest` seconds is, too.

FOLDER/train.jsonl, dev.jsonl, test.jsonl    audio, text, voice, seconds
FOLDER/clips/*.flac                          16 kHz, one channel
FOLDER/corpus.json                           how it was made
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import resample_poly

from corpora.duplicates import NearDuplicateIndex, character_grams, normalize
from corpora.speech.sentences import sentence

RATE = 16_000
LONGEST = 2.0
"""Seconds."""
PARTS = {"test": (300, 1), "dev": (100, 1), "train": (1500, 3)}
"""Sentences of each part, and how often each is spoken: by other voices, if there are several."""
NEAR = 0.8
"""Of the 5-grams of characters that two sentences share."""
VOICES = tuple(
    f"{accent}{variant}"
    for accent in ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")
    for variant in ("", "+f2", "+f4", "+m3", "+m7")
)
SPEEDS = (165, 215)
"""Words a minute."""
PITCHES = (30, 70)
NOISES = (12.0, 35.0)
"""How many decibels the voice is louder than the noise."""


@dataclasses.dataclass(frozen=True)
class Take:
    """How one sentence is spoken."""

    text: str
    voice: str
    speed: int
    pitch: int
    noise: float
    seed: int

    def samples(self) -> npt.NDArray[np.float32]:
        """The recording, at `RATE`."""
        command = ["espeak-ng", "--stdout", "-v", self.voice, "-s", str(self.speed)]
        spoken = subprocess.run(
            [*command, "-p", str(self.pitch), self.text], capture_output=True, check=True
        )
        read, rate = soundfile.read(io.BytesIO(spoken.stdout), dtype="float64")
        voice = resample_poly(read, RATE, rate)
        heard = np.flatnonzero(np.abs(voice) > 0.01 * np.abs(voice).max())
        voice = voice[max(0, heard[0] - RATE // 20) : heard[-1] + RATE // 20]
        noise = np.random.default_rng(self.seed).standard_normal(len(voice))
        noise *= np.sqrt(np.mean(voice**2)) * 10 ** (-self.noise / 20)
        mixed = voice + noise
        found: npt.NDArray[np.float32] = (0.7 * mixed / np.abs(mixed).max()).astype(np.float32)
        return found


def sentences(draw: random.Random) -> Iterator[str]:
    """Endless, none nearly the same as an earlier one."""
    pool = [sentence(draw) for _ in range(20_000)]
    index = NearDuplicateIndex(pool, lambda text: character_grams(normalize(text)), NEAR)
    for text in pool:
        if index.find_near(text) is None:
            index.add(text)
            yield text


def takes(text: str, count: int, draw: random.Random) -> list[Take]:
    """So many ways to speak the sentence."""
    return [
        Take(
            text,
            voice,
            draw.randint(*SPEEDS),
            draw.randint(*PITCHES),
            round(draw.uniform(*NOISES), 1),
            draw.getrandbits(32),
        )
        for voice in draw.sample(VOICES, count)
    ]


def build(folder: Path, *, longest: float = LONGEST, seed: int = 1) -> None:
    """Writes the whole corpus."""
    draw = random.Random(seed)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    texts, counts = sentences(draw), {}
    for part, (size, count) in PARTS.items():
        chosen = [take for _ in range(size) for take in takes(next(texts), count, draw)]
        rows = []
        with ThreadPoolExecutor(2) as pool:
            for number, (take, samples) in enumerate(
                zip(chosen, pool.map(Take.samples, chosen), strict=True)
            ):
                seconds = len(samples) / RATE
                if seconds > longest:
                    continue
                name = f"clips/{part}-{number:05}.flac"
                soundfile.write(folder / name, samples, RATE, subtype="PCM_16")
                rows.append(
                    {
                        "audio": name,
                        "text": take.text,
                        "voice": take.voice,
                        "seconds": round(seconds, 2),
                    }
                )
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        counts[part] = {
            "sentences": size,
            "recordings": len(rows),
            "longer_left_out": len(chosen) - len(rows),
            "seconds": round(sum(float(str(row["seconds"])) for row in rows)),
        }
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True)
    made = {"synthesizer": version.stdout.split("  ")[0], "seed": seed, "longest": longest}
    facts = {**made, "parts": counts}
    (folder / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--longest", type=float, default=LONGEST)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    build(given.folder, longest=given.longest, seed=given.seed)
    print((given.folder / "corpus.json").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
