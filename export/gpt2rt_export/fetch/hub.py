"""A model of the Hugging Face Hub, `hf://owner/model@revision`, fetched by the Hub's own library.

Only the files that an export reads are fetched, into the library's cache (`HF_HOME`), from
`HF_ENDPOINT`; a revision is pinned to the commit that it stands for. The extra `hub` installs it.
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

from gpt2rt.errors import DownloadFailure, InvalidSetting, MissingExtra
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
    *("encoder.json", "vocab.bpe", "meta.pkl"),
)
# The first of these that a model has is what is fetched.
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("ckpt.pt",),
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model's address, as text `hf://owner/model@revision`."""

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
        """Raises `InvalidSetting` for what is no such address; the revision may be left out."""
        found = ADDRESS.fullmatch(text)
        if found is None:
            raise InvalidSetting(
                f"{text!a:.120} is no model of the Hugging Face Hub: write {SCHEME}owner/model, "
                f"or {SCHEME}owner/model@revision"
            )
        return cls(found[1], found[2], found[3] or MAIN)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's files in a directory, and its address with the commit in place of a revision."""

    directory: Path
    model: HubModel


def fetch(model: HubModel, network: Network | None = None) -> Fetched:
    """The files of a model that an export reads; what the cache holds is not fetched again.

    Raises `MissingExtra` without the library, `DownloadFailure` for all that goes wrong there.
    """
    if find_spec("huggingface_hub") is None:
        raise MissingExtra(
            f'{model} needs huggingface_hub: install the extra: pip install "gpt2rt[hub]"'
        )
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    offline = (network or Network.chosen()).offline or _library_is_offline()
    try:
        return _cached(model) if offline else _fetched(model)
    except DownloadFailure:
        raise
    except Exception as error:  # the library has many types, and passes on those of others
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
    names = _needed((item.rfilename for item in found.siblings or ()), model)
    directory = snapshot_download(
        model.repository, revision=commit, allow_patterns=names, endpoint=endpoint
    )
    return Fetched(Path(directory), replace(model, revision=commit))


def _cached(model: HubModel) -> Fetched:
    """What lies in the library's cache of the model: the revision, or the only one there is."""
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


def _needed(names: Iterable[str], model: HubModel) -> list[str]:
    """The files to fetch: settings, tokenizer and the weights in the best format there is."""
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
    """What went wrong, and what to do about it."""
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
    told = " ".join(ascii(str(error))[1:-1].split())[:160] or type(error).__name__
    return (
        f"cannot be fetched ({told}); check the network and HF_ENDPOINT, or clone the model by "
        "other means and name its directory"
    )
