"""Finds a model's tokenizer, of whatever kind, and writes it into the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2rt.bundles import catalog
from gpt2rt.bundles.catalog import ENCODER, MERGES, SPECIAL_TOKENS
from gpt2rt.errors import BadTokenizer
from gpt2rt.text.tokenizer import Tokenizer
from gpt2rt_export.fetch.download import vocabulary
from gpt2rt_export.sources import Checkpoint, NanoGPTCheckpoint, trimmed
from gpt2rt_export.tokenizers import characters
from gpt2rt_export.tokenizers.characters import write_characters
from gpt2rt_export.tokenizers.foreign import is_foreign, write_foreign
from gpt2rt_export.tokenizers.huggingface import write_tokenizer
from gpt2rt_export.tokenizers.huggingface_files import MOST_PADDING, Carried, is_huggingface
from gpt2rt_export.tokenizers.vocabulary import synthetic_vocabulary, write_vocabulary

GPT2S = catalog.RELEASES[0].hparams.n_vocab
PADDED = 50304  # the next multiple of 64, which nanoGPT trains with


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The directory of a tokenizer's files; None: there are none, and a synthetic one is made.

    `origin` is for the manifest: `checkpoint`, `directory` or `synthetic`. `own`: it is the model's
    own tokenizer, not one that the user named.
    """

    directory: Path | None
    origin: str
    own: bool = True


def tokenizer_of(given: Path | None, checkpoint: Checkpoint) -> TokenizerFiles:
    """The tokenizer that the user gave, else the checkpoint's.

    For a nanoGPT model that was trained on GPT-2's tokens it is GPT-2's, downloaded where no
    release is in the home directory. Raises `DownloadFailure`.
    """
    if given is not None:
        return TokenizerFiles(given, "directory", own=False)
    directory = checkpoint.tokenizer
    if directory is None:
        return TokenizerFiles(None, "synthetic")
    gpt2s = isinstance(checkpoint, NanoGPTCheckpoint) and not _holds_any(directory)
    if gpt2s and checkpoint.hparams.n_vocab in (GPT2S, PADDED):
        directory = vocabulary()
    return TokenizerFiles(directory, "checkpoint")


def without_padding(checkpoint: Checkpoint, files: TokenizerFiles) -> Checkpoint:
    """`checkpoint` without the rows by which nanoGPT pads a vocabulary of OpenAI's kind."""
    nanogpt = isinstance(checkpoint, NanoGPTCheckpoint)
    if not nanogpt or files.directory is None or not _is_openais(files.directory):
        return checkpoint
    found = Tokenizer.read(files.directory).n_vocab
    padding = checkpoint.hparams.n_vocab - found
    return trimmed(checkpoint, found) if 0 < padding <= MOST_PADDING else checkpoint


def write(files: TokenizerFiles, n_vocab: int, work: Path) -> list[str]:
    """Write the files for a model of `n_vocab` ids into `work`; returns notes for the user.

    Raises `BadTokenizer` for a directory without a tokenizer, or with another model's.
    """
    directory = files.directory
    if directory is None:
        write_vocabulary(work, *synthetic_vocabulary(n_vocab))
    elif is_huggingface(directory):
        # A model's own tokenizer is its own, however few of the model's ids it uses.
        put = write_foreign if is_foreign(directory) else write_tokenizer
        return list(_notes(put(directory, n_vocab, work, own=files.own)))
    elif _is_openais(directory):
        _copy(directory, n_vocab, work)
    elif (directory / characters.FILE).is_file():
        write_characters(directory, n_vocab, work)
    else:
        raise BadTokenizer(
            f"{directory}: no tokenizer there (tokenizer.json, or vocab.json and merges.txt, or "
            f"{ENCODER} and {MERGES}, or nanoGPT's {characters.FILE}); "
            "name its directory with --tokenizer DIR"
        )
    return []


def _is_openais(directory: Path) -> bool:
    some = any((directory / name).exists() for name in (ENCODER, MERGES))
    return some and not is_huggingface(directory)


def _holds_any(directory: Path) -> bool:
    characters_there = (directory / characters.FILE).is_file()
    return is_huggingface(directory) or _is_openais(directory) or characters_there


def _copy(directory: Path, n_vocab: int, work: Path) -> None:
    found = Tokenizer.read(directory).n_vocab
    if found != n_vocab:
        raise BadTokenizer(
            f"{directory / ENCODER}: {found} ids, but the model's n_vocab is "
            f"{n_vocab}; name the model's own files with --tokenizer DIR"
        )
    for name in (ENCODER, MERGES, SPECIAL_TOKENS):
        if (directory / name).is_file():
            shutil.copyfile(directory / name, work / name)


def _notes(carried: Carried) -> Iterator[str]:
    """Sentences for the user on how the tokenizer was carried over."""
    if carried.left_out:
        yield f"Leave out {', '.join(carried.left_out)}: the model has no such rows"
    if carried.beyond:
        yield f"{carried.beyond} symbols have no row in the model: texts with them fail"
    if carried.makeshift:
        yield "Token 0 begins a text and none ends it: those of the settings have no row"
    if carried.ordinary_ends:
        ends = ", ".join(carried.ordinary_ends)
        yield f"Token {ends}, an ordinary word, ends a text, as the settings say"
