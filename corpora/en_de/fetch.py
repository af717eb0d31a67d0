"""Fetches the Debian packages and apt lists of the corpus and compares them with the lock.

What is fetched lies in a private folder; the lists of the system are not touched. Nothing is
taken from the cache unless its checksum is the locked one.
"""

import json
import subprocess
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

LIST_ENDINGS = {
    "Packages": "_dists_bookworm_main_binary-amd64_Packages",
    "Translation-en": "_dists_bookworm_main_i18n_Translation-en",
    "Translation-de": "_dists_bookworm_main_i18n_Translation-de",
}
LIBREOFFICE_PACKAGES = ("libreoffice-help-en-us", "libreoffice-help-de")
GUIDE_PACKAGE = "installation-guide-amd64"
GNOME_PACKAGES = (
    "gnome-user-docs",
    "evolution-common",
    "gedit-common",
    "totem-common",
    "evince-common",
    "eog",
    "gnome-terminal-data",
    "gnome-system-monitor",
    "seahorse",
    "epiphany-browser-data",
    "gthumb-data",
    "cheese-common",
    "brasero-common",
    "gnome-calculator",
    "gnome-boxes",
    "orca",
    "accerciser",
    "simple-scan",
    "baobab",
    "file-roller",
    "gnome-dictionary",
    "gnome-chess",
    "gnome-mahjongg",
    "iagno",
)
PACKAGES = (*LIBREOFFICE_PACKAGES, GUIDE_PACKAGE, *GNOME_PACKAGES)


@dataclass(frozen=True)
class Locked:
    """One fetched file: its name, version (of a list: which list) and checksum."""

    name: str
    version: str
    sha256: str


class ChangedPackagesError(Exception):
    """The archive no longer serves what the lock names."""


def run(*command: str, cwd: Path | None = None) -> bytes:
    """The standard output of a command; raises with its error text if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} must succeed, but ended with {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def read_lock(path: Path) -> dict[str, Locked]:
    """Name -> locked file; empty if there is no lock yet."""
    if not path.is_file():
        return {}
    return {entry["name"]: Locked(**entry) for entry in json.loads(path.read_text("utf-8"))}


def write_lock(path: Path, found: dict[str, Locked]) -> None:
    """Write the fetched files as the new lock."""
    entries = [asdict(found[name]) for name in sorted(found)]
    path.write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


def describe_changes(locked: dict[str, Locked], found: dict[str, Locked]) -> list[str]:
    """One sentence for each file that is not the locked one, saying which way it changed."""
    changes = []
    for name in sorted(locked.keys() | found.keys()):
        before, now = locked.get(name), found.get(name)
        if before == now:
            continue
        if before is None:
            changes.append(f"{name} is not in the lock")
        elif now is None:
            changes.append(f"{name} is in the lock, but the build no longer uses it")
        elif before.version == now.version:
            changes.append(f"{name} {now.version} has the same version but other contents")
        else:
            newer = ("dpkg", "--compare-versions", now.version, "gt", before.version)
            way = "newer" if subprocess.run(newer, check=False).returncode == 0 else "older"
            changes.append(f"{name} is {way}: locked {before.version}, found {now.version}")
    return changes


def read_list(lists: Path, name: str) -> str | None:
    """The text of an apt list in the folder, None if it is not there."""
    for path in sorted(lists.glob("*" + LIST_ENDINGS[name] + "*")):
        return run("/usr/lib/apt/apt-helper", "cat-file", str(path)).decode("utf-8")
    return None


def fetch_lists(cache: Path, locked: dict[str, Locked]) -> dict[str, tuple[str, Locked]]:
    """Name -> (text, checksum) of the package list and the two translation lists."""
    lists = (cache / "lists").resolve()
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    texts = {name: read_list(lists, name) for name in LIST_ENDINGS}

    def is_locked(name: str, text: str | None) -> bool:
        known = locked.get(name)
        return text is not None and known is not None and checksum(text.encode()) == known.sha256

    if not all(is_locked(name, text) for name, text in texts.items()):
        where = ("-o", f"Dir::State::lists={lists}", "-o", "Acquire::Languages=en,de")
        run("apt-get", "-q", *where, "update")
        texts = {name: read_list(lists, name) for name in LIST_ENDINGS}
    fetched = {}
    for name, text in texts.items():
        if text is None:
            raise RuntimeError(
                f"apt must offer the list {name} of Debian 12 (bookworm), but does not; "
                "check the package sources of this system"
            )
        version = LIST_ENDINGS[name].removeprefix("_dists_")
        fetched[name] = (text, Locked(name, version, checksum(text.encode())))
    return fetched


def fetch_package(cache: Path, name: str, locked: dict[str, Locked]) -> tuple[Path, Locked]:
    """The folder with the unpacked package, and what was fetched."""
    archives = cache / "packages"
    archives.mkdir(parents=True, exist_ok=True)
    known = locked.get(name)
    for path in sorted(archives.glob(f"{name}_*.deb")):
        if known is None or checksum(path.read_bytes()) != known.sha256:
            path.unlink()
    if not list(archives.glob(f"{name}_*.deb")):
        where = ("-o", f"Dir::State::lists={(cache / 'lists').resolve()}")
        user = ("-o", "APT::Sandbox::User=root")
        run("apt-get", "-q", *where, *user, "download", name, cwd=archives)
    (path,) = archives.glob(f"{name}_*.deb")
    found = Locked(
        name,
        run("dpkg-deb", "-f", str(path), "Version").decode().strip(),
        checksum(path.read_bytes()),
    )
    folder = cache / "unpacked" / f"{name}-{found.sha256[:12]}"
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "-x", str(path), str(partial))
        partial.rename(folder)
    return folder, found


def checksum(content: bytes) -> str:
    """The sha256 of the content in hexadecimal."""
    return sha256(content).hexdigest()
