"""Prepares other libraries ("peers") for measurement beside gpt2rt, with the same weights.

A peer runs under a Python of its own (`environment`) as a worker (`workers/run.py`) that answers
the same requests as gpt2rt's own worker. `weights` writes the weights of a bundle, which the peer's
converter converts to its own format once; both are kept in the home directory. `table` says which
of its precisions is compared with which of gpt2rt's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles.bundle import Bundle
from gpt2rt.errors import Gpt2rtError
from gpt2rt_bench.peers import environment, weights
from gpt2rt_bench.peers.table import PEERS, Peer
from gpt2rt_export.origin import checkpoint_of

RUN = Path(__file__).parent / "workers" / "run.py"


@dataclass(frozen=True, slots=True)
class PeerSubject:
    """A peer ready to be measured beside `bundle`: precision, Python, converted model, provider."""

    peer: str
    module: str
    bundle: Bundle
    precision: str
    python: Path
    model: Path
    provider: str = "cpu"

    @property
    def name(self) -> str:
        """Its library and precision."""
        return f"{self.peer} {self.precision}"

    def worker(self, threads: int) -> list[str]:
        """The command of a worker that speaks `gpt2rt_bench.protocol`."""
        return self._command("serve", str(self.model), self.precision, str(threads))

    def first_token(self, threads: int, prompt: Sequence[int]) -> list[str]:
        """The command of a program that prints the token after `prompt` and ends."""
        tokens = map(str, prompt)
        return self._command("first", str(self.model), self.precision, str(threads), *tokens)

    def _command(self, *arguments: str) -> list[str]:
        return [str(self.python), str(RUN), self.module, *arguments]


def subjects(
    bundles: Iterable[Bundle],
    python: Path,
    checkpoint: Path | None = None,
    stage: Callable[[str], object] = lambda title: None,
    providers: Collection[str] = ("cpu",),
) -> tuple[list[PeerSubject], list[str]]:
    """The peers on `providers` for these bundles, converted, and why others are left out.

    `stage` is called with the title of each step. Raises `BadCheckpoint` where a bundle's weights
    are not found, `InvalidSetting` where `python` is not a Python.
    """
    table = [peer for peer in PEERS if peer.provider in providers]
    wanted = {name for peer in table for name in peer.needs}
    lacking = environment.missing(python, sorted(wanted))
    found: list[PeerSubject] = []
    left_out: list[str] = []
    done: set[tuple[Path, str]] = set()
    for bundle in bundles:
        m, place = bundle.manifest, weights.directory_for(bundle)
        if (place, m.precision) in done:
            continue
        done.add((place, m.precision))
        for peer in table:
            if reason := _reason_against(peer, bundle, lacking, python):
                left_out.append(f"{peer.name}: {reason}")
                continue
            own = peer.precisions[m.precision]
            model = place / f"{peer.module}-{own}"
            try:
                if not model.exists():
                    source = _checkpoint(bundle, checkpoint, place, stage)
                    stage(f"Convert to {peer.name} {own}")
                    _convert(peer, python, source, model, own)
            except ConversionFailure as error:
                left_out.append(f"{peer.name}: {error}")
                continue
            found.append(
                PeerSubject(peer.name, peer.module, bundle, own, python, model, peer.provider)
            )
    return found, list(dict.fromkeys(left_out))


class ConversionFailure(Gpt2rtError):
    """A peer's converter did not make its model."""


def _reason_against(peer: Peer, bundle: Bundle, lacking: set[str], python: Path) -> str:
    """Why a peer cannot be measured beside a bundle; "" where it can."""
    if absent := [name for name in peer.needs if name in lacking]:
        return f"{', '.join(absent)} not installed for {python}"
    if bundle.manifest.precision not in peer.precisions:
        return f"no {bundle.manifest.precision}"
    return peer.cannot_run(bundle.manifest.hparams)


def _checkpoint(
    bundle: Bundle, given: Path | None, place: Path, stage: Callable[[str], object]
) -> Path:
    """The directory of the bundle's weights for peers, which is written if it is missing."""
    directory = place / "checkpoint"
    if not directory.exists():
        source = checkpoint_of(bundle.manifest, given)
        stage("Write the checkpoint for the peers")
        weights.write_checkpoint(bundle, source, directory)
    return directory


def _convert(peer: Peer, python: Path, checkpoint: Path, model: Path, precision: str) -> None:
    """Run the peer's own converter under its Python; `model` appears whole or not at all."""
    with weights.working_beside(model) as work:
        made = work / "model"
        arguments = ["convert", str(checkpoint), str(made), precision]
        command = [str(python), str(RUN), peer.module, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise ConversionFailure(f"cannot convert ({environment.last_error(ended.stderr)})")
        made.rename(model)
