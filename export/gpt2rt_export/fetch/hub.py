"""Fetches a model of the Hugging Face Hub, `hf://owner/model@revision`, with the Hub's library.

Only the files that an export reads are fetched, from `HF_ENDPOINT` into the library's cache
(`HF_HOME`); a revision is pinned to its commit. The extra `hub` installs the library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from gpt2rt.errors import DownloadFailure, InvalidSetting, missing_extra
from gpt2rt_export.fetch.network import Network

SCHEME = "hf://"
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}"
REVISION = r"[A-Za-z0-9_](?:[A-Za-z0-9_/-]|\.(?!\.)){0,199}"
ADDRESS = re.compile(rf"hf://({PART})/({PART})(?:@({REVISION}))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"

SETTINGS = (
    *("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt"),
    *("encoder.json", "vocab.bpe", "meta.pkl", "chat_template.jinja"),
)
# Formats of the weights; the first that a model has is fetched.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("ckpt.pt",),
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """The address of a model; as text `hf://owner/model@revision`."""

    owner: str
    name: str
    revision: str = MAIN

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}@{self.revision}"

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> HubModel:
        """The address in a text, whose revision may be left out. Raises `InvalidSetting`."""
        found = ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidSetting(
                f"{text!a:.120} is no model of the Hugging Face Hub: write {SCHEME}owner/model, "
                f"or {SCHEME}owner/model@revision"
            )
        return cls(found[1], found[2], found[3] or MAIN)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The directory of a model's files, and its address with the commit as its revision."""

    directory: Path
    model: HubModel


def fetch(model: HubModel, network: Network | None = None) -> Fetched:
    """Fetch the files of a model that an export reads; those in the cache are not fetched again.

    Raises `MissingExtra` without the library, `DownloadFailure` for every failure of it.
    """
    if find_spec("huggingface_hub") is None:
        raise missing_extra("hub", f"{model} needs huggingface_hub")
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    offline = (network or Network.chosen()).offline or _library_is_offline()
    try:
        return _cached(model) if offline else _fetched(model)
    except DownloadFailure:
        raise
    except Exception as error:  # the library has many types, and lets through those of others
        raise DownloadFailure(f"{model}: {_reason(error, model)}") from None


def _library_is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _fetched(model: HubModel) -> Fetched:
    from huggingface_hub import HfApi, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT")
    found = HfApi(endpoint=endpoint).model_info(model.repository, revision=model.revision)
    if not COMMIT.fullmatch(commit := str(found.sha)):
        raise DownloadFailure(f"{model}: the Hub names no commit of it; try again later")
    names = files_to_fetch((item.rfilename for item in found.siblings or ()), model)
    directory = snapshot_download(
        model.repository, revision=commit, allow_patterns=names, endpoint=endpoint
    )
    return Fetched(Path(directory), replace(model, revision=commit))


def _cached(model: HubModel) -> Fetched:
    """The model in the library's cache: the named revision, or the only one that is there."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = frozenset()
    ours = (r for r in repositories if (r.repo_type, r.repo_id) == ("model", model.repository))
    held = [revision for repository in ours for revision in repository.revisions]
    named = [r for r in held if model.revision in (r.commit_hash, *r.refs)]
    if not named and model.revision == MAIN and len(held) == 1:
        named = held
    if not named:
        commits = ", ".join(sorted(r.commit_hash for r in held)[:5])
        known = f"in the cache are only {commits}" if held else "it is not in the cache"
        raise DownloadFailure(
            f"{model}: offline, nothing is fetched, and {known}; go online, or name one of those"
        )
    return Fetched(Path(named[0].snapshot_path), replace(model, revision=named[0].commit_hash))


def files_to_fetch(names: Iterable[str], model: HubModel) -> list[str]:
    """Those of a model's files that an export reads: settings, tokenizer, weights in one format.

    Raises `DownloadFailure` where there are no weights in a known format.
    """
    names = list(names)
    for weights in WEIGHTS:
        found = [name for name in names if any(fnmatchcase(name, each) for each in weights)]
        if found:
            return [*(name for name in names if name in SETTINGS), *found]
    some = ", ".join(ascii(name)[1:-1] for name in names[:9]) or "nothing"
    raise DownloadFailure(
        f"{model}: has no weights that gpt2rt reads (model.safetensors, pytorch_model.bin, "
        f"ckpt.pt); there are: {some:.300}"
    )


def _reason(error: Exception, model: HubModel) -> str:
    """An error of the library in words for a user, with the remedy."""
    from huggingface_hub import errors

    page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{model.repository}"
    if isinstance(error, errors.GatedRepoError):
        return f"its owner grants access one by one: ask for it at {page}, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such model, or a private one: check the name; for a private one set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {model.revision}: name a branch, a tag or a commit of it"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"the Hub answers {status}; try again later"
    message = " ".join(ascii(str(error))[1:-1].split())[:160] or type(error).__name__
    return (
        f"cannot be fetched ({message}); check the network and HF_ENDPOINT, or clone the model by "
        "other means and name its directory"
    )
