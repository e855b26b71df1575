"""The methods of a loaded model that score and embed texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from gpt2rt.bundles.hparams import HParams
from gpt2rt.checks import check_kind, check_list
from gpt2rt.engine.runtime import Runtime
from gpt2rt.generation.batch import Batch
from gpt2rt.scoring import token_scores
from gpt2rt.scoring.document import Document
from gpt2rt.scoring.embeddings import Embedding, EmbedParams, Reader, embed_texts
from gpt2rt.scoring.reading import AUTO_BOS, Bos, Reading, beginning
from gpt2rt.scoring.score import Boundary, Score
from gpt2rt.scoring.scoring import Passage, TokenScores
from gpt2rt.scoring.surprisal import score_texts, word_beginnings
from gpt2rt.text.tokenizers import TextTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Scorer:
    """Scores and embeds texts; the base class of `GPT2`, which sets its attributes."""

    tokenizer: TextTokenizer
    hparams: HParams
    runtime: Runtime
    batch: Batch

    def score(
        self,
        text: str,
        *,
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
    ) -> Score:
        """Score `text`: the log-probability of each token and word, after `context` (None: none).

        `bos` is a token put before context and text, as an id or a text: `"auto"` is the
        tokenizer's, `<|endoftext|>` in released models; None is no token, and then the first token
        of all has no score. A text longer than the `window` (None: n_ctx tokens) is read in windows
        that advance by `stride` (None: it is an error). `special` is as in `generate`; `top` is the
        number of likeliest alternatives returned for each token. `boundary` is the end of a word,
        leading or trailing, to which its white space belongs; `trailing` corrects the surprisal of
        words for vocabularies with spaces before words.

        Raises `BadText` for an empty text, `PromptTooLong`, `InvalidSetting`.
        """
        (score,) = self.score_batch(
            [text],
            bos=bos,
            context=context,
            special=special,
            window=window,
            stride=stride,
            boundary=boundary,
            top=top,
        )
        return score

    def score_document(
        self,
        texts: Iterable[str],
        *,
        joint: str = " ",
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
    ) -> list[Score]:
        """Score the sentences of a document, each after all those before it, as `score`.

        They are scored as one text, joined by `joint`, and the score is split. So `window` and
        `stride` apply to the whole document: if it is longer than the window it needs a stride, and
        tokens beyond the first window are predicted from the last `window - stride + 1` tokens
        before them, or more.
        """
        check_list("texts", texts, "score")
        document = Document(tuple(texts), joint)
        whole = self.score(
            document.text,
            bos=bos,
            context=context,
            special=special,
            window=window,
            stride=stride,
            boundary=boundary,
            top=top,
        )
        return document.parts(whole)

    def score_batch(
        self,
        texts: Iterable[str],
        *,
        bos: Bos = AUTO_BOS,
        context: str | None = None,
        special: bool | None = None,
        window: int | None = None,
        stride: int | None = None,
        boundary: Boundary = "leading",
        top: int = 0,
        batch_size: int | None = None,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> Iterator[Score]:
        """Score many texts in batches, in their order, each as `score` does.

        Up to `batch_size` are read side by side (None: as many as are useful). A score does not
        depend on the other texts. If a text cannot be scored, the scores before it are returned
        before the error is raised. `advance` is called with the number of tokens scored since its
        last call.
        """
        check_list("texts", texts, "score")
        n_ctx, begin = self.hparams.n_ctx, beginning(self.tokenizer, bos)
        reading = Reading.within(n_ctx, window, stride, context, special, boundary, begin)
        token_scores.check(self.hparams, top, batch_size)

        group = word_beginnings(self.tokenizer) if boundary == "trailing" else None

        def score_tokens(passages: Iterable[Passage]) -> Iterator[TokenScores]:
            return self.score_tokens(passages, top=top, batch_size=batch_size, group=group)

        return score_texts(texts, self.tokenizer, reading, score_tokens, advance)

    def score_tokens(
        self,
        passages: Iterable[Passage],
        *,
        top: int = 0,
        batch_size: int | None = None,
        group: NDArray[np.int64] | None = None,
    ) -> Iterator[TokenScores]:
        """Score the tokens of each passage, in their order, with the `top` likeliest alternatives.

        Passages are taken as they are needed, so any number of them takes the same memory. Up to
        `batch_size` are read side by side (None: as many as are useful). Scores do not depend on
        the other passages. `group` are token ids, int64 [n], whose summed probability is returned
        at every position. Raises `InvalidSetting`, `PromptTooLong`.
        """
        return token_scores.score_tokens(
            self.runtime,
            self.batch,
            self.hparams,
            passages,
            top=top,
            batch_size=batch_size,
            threads=self.runtime.threads,
            group=group,
        )

    def embed(self, text: str, params: EmbedParams = EmbedParams()) -> Embedding:
        """Embed `text`: contextual vectors of its tokens, its words or the whole text.

        Raises `BadText`, `InvalidSetting`, `PromptTooLong`, and `BadBundle` if the bundle has no
        embedding graph.
        """
        (embedding,) = self.embed_batch([text], params)
        return embedding

    def embed_batch(
        self,
        texts: Iterable[str],
        params: EmbedParams = EmbedParams(),
        *,
        batch_size: int | None = None,
    ) -> Iterator[Embedding]:
        """Embed many texts in batches, in their order, each as `embed` does.

        Up to `batch_size` are read side by side (None: as many as are useful).
        """
        check_list("texts", texts, "embed")
        check_kind("params", params, EmbedParams)
        reader = Reader(self.tokenizer, self.hparams, self.runtime, self.batch)
        return embed_texts(texts, reader, params, batch_size)
