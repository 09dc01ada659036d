"""Texts, their cut into examples, and a trainer that learns them."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from weft.node.trainer import Calibrates, Evaluates, Stateful, Trainer, data_size_of, load_trainer
from weft.simulations.errors import BadData, BadOption
from weft.simulations.tasks.documents import Documents, load_documents
from weft.simulations.tasks.text import UNKNOWN, LanguageTrainer, TextTask

ABC = "abcabcabcabcabcabcabcabcabcabc" * 20
SMALL: dict[str, Any] = {"context": 6, "model_options": "width=16, depth=1, heads=2", "batch": 8}


@pytest.fixture
def letters(tmp_path: Path) -> str:
    path = tmp_path / "letters.txt"
    path.write_text(ABC)
    return str(path)


def rows(path: Path, *found: Mapping[str, object]) -> str:
    lines = "\n".join(json.dumps(row) for row in found)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return str(path)


def test_examples_by_hand() -> None:
    documents = Documents(train=("aab", "bba"), labels=(3, 5), test=("b!ab",))
    task = TextTask.of(documents, context=2)
    # a three times, b three times, then the line between the texts; "aab\nbba" is 1122...
    assert task.vocabulary == "ab\n"
    assert task.train.tolist() == [[1, 1, 2], [2, 3, 2], [2, 2, 1]]
    assert task.kinds.tolist() == [3, 3, 5]
    assert task.test.tolist() == [[2, UNKNOWN, 1]]


def test_a_label_is_the_character_after() -> None:
    documents = Documents(train=("abcdefgh",), labels=(), test=("abcd",))
    dealt = TextTask.of(documents, context=3).dealt("iid", nodes=1, alpha=1, seed=0)
    assert dealt.inputs.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert dealt.labels.tolist() == [[2, 3, 4], [5, 6, 7]]
    assert dealt.test_labels.tolist() == [[2, 3, 4]]
    assert dealt.classes == 9


def test_only_frequent_characters_have_a_token() -> None:
    train = "".join(chr(0x4E00 + number) for number in range(200)) + "zz"
    task = TextTask.of(Documents(train=(train,), labels=(), test=("zzz",)), context=1)
    assert len(task.vocabulary) == 127
    assert task.vocabulary[0] == "z"
    assert (task.train[150:199] == UNKNOWN).all()


def test_stretches_are_what_a_split_tells_apart() -> None:
    text = "".join(chr(97 + place) * 20 for place in range(10))
    task = TextTask.of(Documents(train=(text,), labels=(), test=("aaa",)), context=2)
    assert sorted(set(task.kinds.tolist())) == list(range(10))
    dealt = task.dealt("classes", nodes=5, alpha=1, seed=0)
    held = [set(dealt.inputs[share].flatten().tolist()) for share in dealt.shares]
    # Two letters a node; one example may reach over into the next letter.
    assert all(2 <= len(letters) <= 4 for letters in held)


def test_lines_of_json_with_labels_and_a_split(tmp_path: Path) -> None:
    data = rows(
        tmp_path / "rows.jsonl.gz",
        {"text": "one", "label": 1, "split": "train"},
        {"text": "two", "label": 0, "split": "test"},
        {"text": "three", "label": 2, "split": "train"},
    )
    assert load_documents(data) == Documents(train=("one", "three"), labels=(1, 2), test=("two",))


def test_the_end_is_the_test_where_a_file_does_not_say(tmp_path: Path, letters: str) -> None:
    plain = load_documents(letters)
    assert plain.train[0] + plain.test[0] == ABC
    assert len(plain.test[0]) == len(ABC) // 10
    data = rows(tmp_path / "rows.jsonl", *({"text": str(number)} for number in range(20)))
    found = load_documents(data)
    assert (len(found.train), found.labels, found.test) == (18, (), ("18", "19"))


def test_python_s_own_documentation_is_text_enough() -> None:
    task = TextTask.of(load_documents("pydoc"), context=32)
    assert len(task.train) > 5000
    assert len(task.test) > 500
    assert "e" in task.vocabulary[:3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe\xff", "not a readable text in UTF-8"),
        ("a.txt.gz", b"plain", "not a readable text in UTF-8"),
        ("a.jsonl", b'{"text": "x"}\nnonsense', "line 2: not JSON"),
        ("a.jsonl", b'{"txt": "x"}', 'line 1: no "text"'),
        ("a.jsonl", b'{"text": "x", "label": -1}', "line 1: label -1"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}', "2 texts, 1 labels"),
    ],
)
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadData, match=said):
        load_documents(str(path))


def test_no_file_and_too_little_of_it(tmp_path: Path, letters: str) -> None:
    with pytest.raises(BadData, match="no such file"):
        LanguageTrainer(data=str(tmp_path / "none.txt"))
    with pytest.raises(BadData, match="60 characters to test with; expected at least 101"):
        LanguageTrainer(data=letters, context=100)
    with pytest.raises(BadOption, match="context = 0"):
        LanguageTrainer(data=letters, context=0)


def test_is_a_complete_plug_in(letters: str) -> None:
    target = "weft.simulations.tasks.text:LanguageTrainer"
    trainer: Trainer = load_trainer(target, {"data": letters, "nodes": 4, "node": 1}, Path())
    assert isinstance(trainer, Evaluates)
    assert isinstance(trainer, Calibrates)
    assert isinstance(trainer, Stateful)
    assert data_size_of(trainer)


def test_a_node_keeps_its_share_and_no_more(letters: str) -> None:
    trainers = [LanguageTrainer(data=letters, nodes=3, node=node, **SMALL) for node in range(3)]
    assert [len(each.inputs) for each in trainers] == [each.data_size for each in trainers]
    assert sum(each.data_size for each in trainers) == (len(ABC) * 9 // 10 - 1) // 6


def test_a_task_dealt_out_before_trains_the_same(letters: str) -> None:
    task = TextTask.of(load_documents(letters), context=6)
    dealt = task.dealt("dirichlet", nodes=3, alpha=0.3, seed=0)
    models = []
    for given in (None, dealt):
        trainer = LanguageTrainer(data=letters, nodes=3, node=1, steps=3, task=given, **SMALL)
        torch.manual_seed(0)
        model = trainer.model()
        trainer.train(model, 0)
        models.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*models)


def test_it_learns_what_comes_next(letters: str) -> None:
    """In abcabc every character says the next; untrained, a third at best is luck."""
    trainer = LanguageTrainer(data=letters, steps=60, lr=0.01, **SMALL)
    torch.manual_seed(0)
    model = trainer.model()
    before = trainer.evaluate(model)
    trainer.train(model, 0)
    after = trainer.evaluate(model)
    assert before["accuracy"] < 0.6
    assert after["accuracy"] == 1.0
    assert after["test_loss"] < 0.2 < before["test_loss"]


def test_a_round_trained_again_ends_with_the_same_bytes_from_saved_state(letters: str) -> None:
    trainer = LanguageTrainer(data=letters, steps=3, **SMALL)
    torch.manual_seed(0)
    model = trainer.model()
    trainer.train(model, 0)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = LanguageTrainer(data=letters, steps=3, **SMALL)
    other.load_state(trainer.state())
    trainer.train(model, 1)
    again = other.model()
    again.load_state_dict(kept)
    other.train(again, 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
