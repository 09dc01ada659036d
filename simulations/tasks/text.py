"""A trainer that learns to say what character comes next, on a share of a text.

    [train]
    trainer = "weft.simulations.tasks.text:LanguageTrainer"
    options = { data = "letters.txt", nodes = 4, node = 0, split = "dirichlet" }

An example is a stretch of characters, and every place of it has a label: the character
after it. All nodes know the vocabulary, which is that of all training texts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.simulations.errors import BadData, BadOption
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.simulations.tasks.dealt import DealtTask
from weft.simulations.tasks.documents import PYDOC, Documents, load_documents
from weft.simulations.tasks.splits import split as deal_out

UNKNOWN = 0
"""The token of all characters that are not in the vocabulary."""
VOCABULARY = 127
"""Characters with a token of their own, at most: the most frequent ones."""
STRETCHES = 10
"""Parts of a text without labels, one after the other, which a skewed split tells apart."""
BETWEEN = "\n"
"""Between two texts."""

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTask:
    """A text as examples of equal length.

    Attributes:
        train, test: (n, context + 1) int64 tokens; the last of one is the first of the next.
        kinds: (n,) int64, what a skewed split deals train by: the label of the text in
            which an example begins, or the stretch of the whole text in which it lies.
        vocabulary: its characters by token, from 1.
    """

    train: Tokens
    test: Tokens
    kinds: Tokens
    vocabulary: str

    @classmethod
    def of(cls, documents: Documents, *, context: int, limit: int = 0) -> "TextTask":
        """Cut texts into examples.

        Args:
            documents: the texts.
            context: characters that are seen.
            limit: take the first so many training examples; 0 for all.

        Raises:
            BadData: less text than one example, to train on or to test with.
            BadOption: no context.
        """
        if context < 1:
            raise BadOption(f"context = {context}; expected at least 1 character")
        text = BETWEEN.join(documents.train)
        often = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
        vocabulary = "".join(character for character, _ in often[:VOCABULARY])
        train = _examples(_tokens(text, vocabulary), context, "train on")
        test = _examples(_tokens(BETWEEN.join(documents.test), vocabulary), context, "test with")
        kinds = _kinds(documents, len(train), context)
        kept = slice(None, limit or None)
        return cls(train=train[kept], test=test, kinds=kinds[kept], vocabulary=vocabulary)

    def dealt(self, split: str, *, nodes: int, alpha: float, seed: int) -> DealtTask:
        """Deal the examples out; `weft.simulations.tasks.splits` says how.

        Raises:
            BadSplit: a split that does not exist or cannot be done.
        """
        shares = deal_out(split, self.kinds, nodes=nodes, alpha=alpha, seed=seed)
        (inputs, labels), (test_inputs, test_labels) = _shifted(self.train), _shifted(self.test)
        return DealtTask(
            inputs=inputs,
            labels=labels,
            test_inputs=test_inputs,
            test_labels=test_labels,
            classes=len(self.vocabulary) + 1,
            shares=tuple(torch.from_numpy(share) for share in shares),
        )


class LanguageTrainer(ClassificationTrainer):
    """Trains a small causal model of characters on one node's share of a text.

    Its accuracy is the share of characters that it says right. Deterministic, as
    `ClassificationTrainer`, whose options it has; others are:

    Args:
        data: "pydoc", or the path of a text (see `documents`).
        split: how examples are dealt out; skewed ones go by `TextTask.kinds`.
        model: a model of (n, context) tokens, such as "transformer".
        context: characters that the model sees.
        limit: use the first so many training examples; 0 for all.
        task: dealt out already, for many trainers in one process.

    Raises:
        InvalidInput: data, split or an option that cannot be used.
    """

    def __init__(
        self,
        *,
        data: str = PYDOC,
        nodes: int = 1,
        node: int = 0,
        split: str = "dirichlet",
        alpha: float = 0.3,
        seed: int = 0,
        steps: int = 20,
        batch: int = 32,
        optimizer: str = "adam",
        lr: float = 0.0,
        decay: float = 1.0,
        momentum: float = 0.5,
        model: str = "transformer",
        model_options: Mapping[str, int] | str = "",
        context: int = 32,
        limit: int = 0,
        task: DealtTask | None = None,
    ) -> None:
        dealt = task or TextTask.of(load_documents(data), context=context, limit=limit).dealt(
            split, nodes=nodes, alpha=alpha, seed=seed
        )
        super().__init__(
            nodes=nodes,
            node=node,
            seed=seed,
            steps=steps,
            batch=batch,
            optimizer=optimizer,
            lr=lr,
            decay=decay,
            momentum=momentum,
            model=model,
            model_options=model_options,
            task=dealt,
        )
        if task is None:
            mine = dealt.only(node)
            self.inputs, self.labels, self.share = mine.inputs, mine.labels, mine.shares[0]


def _tokens(text: str, vocabulary: str) -> Tokens:
    """(len(text),): the place of each character in the vocabulary, from 1."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    known = np.array([ord(character) for character in vocabulary], dtype=np.uint32)
    if not len(known):
        return np.full(len(codes), UNKNOWN, dtype=np.int64)
    order = np.argsort(known)
    places = np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)
    found = order[places]
    return np.where(known[found] == codes, found + 1, UNKNOWN).astype(np.int64)


def _examples(tokens: Tokens, context: int, use: str) -> Tokens:
    """(n, context + 1), each beginning where the one before it ends."""
    count = (len(tokens) - 1) // context
    if count < 1:
        raise BadData(
            f"{len(tokens)} characters to {use}; expected at least {context + 1}, one more than "
            "the context"
        )
    starts = np.arange(count)[:, None] * context
    examples: Tokens = tokens[starts + np.arange(context + 1)]
    return examples


def _kinds(documents: Documents, count: int, context: int) -> Tokens:
    starts = np.arange(count)
    if not documents.labels:
        return starts * STRETCHES // count
    ends = np.cumsum([len(text) + len(BETWEEN) for text in documents.train])
    owners = np.searchsorted(ends, starts * context, side="right")
    labels: Tokens = np.array(documents.labels, dtype=np.int64)
    return labels[owners]


def _shifted(examples: Tokens) -> tuple[Tensor, Tensor]:
    """What is seen, and at each place what comes next."""
    whole = torch.from_numpy(examples)
    return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()
