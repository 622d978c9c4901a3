"""The environment of the peers: made from `requirements-peers.txt` when it is first needed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

__all__ = ["PeersError", "peers_python"]

REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")


class PeersError(RuntimeError):
    """The environment of the peers could not be made; the message is pip's last word."""


def peers_python(folder: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The interpreter of the peers' environment, which is made if it is missing or out of date.

    Args:
        folder: where the environment is, or is to be.
        requirements: what goes into it; a change makes pip run again.

    Raises:
        PeersError: venv or pip failed, for want of a network for instance.
    """
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    stamp = folder / ".requirements"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "-r", str(requirements)], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        raise PeersError(said[-1] if said else str(error)) from error
    except OSError as error:
        raise PeersError(str(error)) from error
    stamp.write_text(digest)
    return python
