"""Networks merged in part: from the mean of both at width one to both at width two."""

import pytest
import torch
from torch import Tensor, nn

from tests.merging.alignment.zoo import ZOO, prepared, shown, tensors_of
from weft.merging.alignment.activations import matched
from weft.merging.alignment.groups import Groups, groups_of
from weft.merging.alignment.least_squares import layers_of, refined
from weft.merging.alignment.observation import Seen, observed
from weft.merging.alignment.orientation import Oriented, oriented_of
from weft.merging.alignment.permutations import Permutation
from weft.merging.alignment.pleas import Partial, partial_by, reshaped, widenable
from weft.merging.alignment.tracing import trace
from weft.merging.errors import BadOption, CannotAlign

Tensors = dict[str, Tensor]


class Two:
    """A network of the zoo, another one from another start, and what a merge of them needs."""

    def __init__(self, name: str) -> None:
        self.model, self.inputs, self.traced = shown(name)
        torch.manual_seed(5)
        self.second = prepared(ZOO[name].build())
        self.groups: Groups = groups_of(self.traced)
        self.mine, theirs = tensors_of(self.model), tensors_of(self.second)
        torch.manual_seed(6)
        self.batches = [ZOO[name].inputs() for _ in range(12)]
        self.seen: Seen = observed(self.traced, self.groups, self.mine, [theirs], self.batches)[0]
        self.order: Permutation = matched(self.groups, self.seen, self.mine, theirs)
        self.theirs = self.order.applied(theirs)
        oriented = oriented_of(self.traced, self.groups)
        self.widened: list[Oriented] = widenable(self.model, self.groups, oriented, self.inputs, {})

    def partial(self, width: float, weight: float = 0.5) -> Partial:
        return partial_by(self.seen, self.order, self.widened, width=width, weight=weight)

    def outputs(self, tensors: Tensors) -> Tensor:
        with torch.no_grad():
            found: Tensor = reshaped(self.model, tensors)(*self.inputs)
        return found


@pytest.mark.parametrize("weight", [0.5, 0.25])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet-20", "resnet-50"])
def test_at_twice_the_width_outputs_are_the_mean_of_both(name: str, weight: float) -> None:
    two = Two(name)
    assert {each.group for each in two.widened} == set(two.groups.groups)
    partial = two.partial(2.0, weight)
    with torch.no_grad():
        wanted = weight * two.model(*two.inputs) + (1 - weight) * two.second(*two.inputs)
    for tensors in (
        partial.applied(two.mine, two.theirs),
        refined(two.traced, partial, (two.mine, two.theirs), two.batches),
    ):
        error = (two.outputs(tensors) - wanted).abs().max()
        assert error <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", ZOO)
def test_at_width_one_it_is_the_mean_of_weights(name: str) -> None:
    two = Two(name)
    found = two.partial(1.0).applied(two.mine, two.theirs)
    for key, tensor in two.mine.items():
        wanted = (tensor + two.theirs[key]) / 2 if tensor.is_floating_point() else tensor
        assert torch.allclose(found[key], wanted, atol=1e-6)


def test_the_pairs_that_have_the_least_in_common_stay_apart() -> None:
    two = Two("cnn")
    partial = two.partial(1.5)
    for each, apart in partial.apart.items():
        assert len(apart) == round(each.group.size / 2)
        score = torch.stack(
            [
                found.correlations()[torch.arange(each.group.size), two.order.orders[each.group]]
                for site, found in two.seen.items()
                if site.group is each.group
            ]
        ).sum(0)
        rest = [unit for unit in range(each.group.size) if unit not in apart.tolist()]
        assert float(score[apart].max()) <= float(score[rest].min())
    found = partial.applied(two.mine, two.theirs)
    assert found["0.weight"].shape == (9, 3, 3, 3)
    # Twelve channels of two by two places, and fifteen units.
    assert found["7.weight"].shape == (15, 12 * 4)
    assert torch.isfinite(two.outputs(found)).all()


def test_apart_units_of_one_do_not_read_those_of_the_other() -> None:
    two = Two("mlp")
    partial = two.partial(1.5)
    first, second = (partial.apart[each] for each in two.widened)
    weight = partial.applied(two.mine, two.theirs)["3.weight"]
    assert torch.equal(weight[second][:, 9:], torch.zeros(len(second), len(first)))
    assert torch.equal(weight[7:][:, first], torch.zeros(len(second), len(first)))
    assert torch.equal(weight[second][:, first], two.mine["3.weight"][second][:, first])
    assert torch.equal(weight[7:][:, 9:], two.theirs["3.weight"][second][:, first])
    refit = refined(two.traced, partial, (two.mine, two.theirs), two.batches)["3.weight"]
    assert torch.equal(refit == 0, weight == 0)


def test_streams_under_a_norm_and_numbers_of_groups_are_not_widened() -> None:
    named = {name: [each.group.name for each in Two(name).widened] for name in ("vit", "mobilenet")}
    assert named == {"vit": ["net.0.weight[0]"], "mobilenet": ["0.weight[0]"]}


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet-20", "bert", "llama"])
def test_a_network_with_itself_stays_as_it_is(name: str) -> None:
    """The fit finds weights that it was not told, as the ridge draws to the mean only."""
    two = Two(name)
    partial = two.partial(1.0)
    spoilt = {key: tensor.clone() for key, tensor in two.mine.items()}
    found = refined(two.traced, partial, (two.mine, spoilt), two.batches)
    assert layers_of(two.traced)
    for key, tensor in two.mine.items():
        assert torch.allclose(found[key], tensor, rtol=1e-3, atol=1e-4)


def test_the_fit_is_the_least_squares_solution() -> None:
    """One layer of one strided convolution: by hand, and where the plain mean is not it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                          nn.Linear(3 * 9, 2))  # fmt: skip
    batches = [(torch.randn(8, 2, 5, 5),) for _ in range(40)]
    traced = trace(model, batches[0], {})
    mine = tensors_of(model)
    theirs = tensors_of(prepared(nn.Sequential(*[type(each)(*_given(each)) for each in model])))
    partial = Partial(groups_of(traced), 0.5, {})
    found = refined(traced, partial, (mine, theirs), batches, ridge=1e-9)
    images = torch.cat([batch[0] for batch in batches])
    with torch.no_grad():
        hidden = [
            torch.relu(nn.functional.conv2d(images, each["0.weight"], each["0.bias"], 2, 1))
            .flatten(1)
            for each in (mine, theirs)
        ]  # fmt: skip
        outputs = [
            nn.functional.linear(one, each["3.weight"], each["3.bias"])
            for one, each in zip(hidden, (mine, theirs), strict=True)
        ]
        read = torch.cat([(hidden[0] + hidden[1]) / 2, torch.ones(len(images), 1)], 1).double()
        wanted = ((outputs[0] + outputs[1]) / 2).double()
        by_hand = torch.linalg.lstsq(read, wanted).solution.T.float()
    assert torch.allclose(found["3.weight"], by_hand[:, :-1], atol=1e-4)
    assert torch.allclose(found["3.bias"], by_hand[:, -1], atol=1e-4)
    # A layer that reads the network's inputs is linear in them: the mean is the solution.
    assert torch.allclose(found["0.weight"], (mine["0.weight"] + theirs["0.weight"]) / 2, atol=1e-4)
    assert not torch.allclose(found["3.weight"], (mine["3.weight"] + theirs["3.weight"]) / 2,
                              atol=1e-2)  # fmt: skip


def test_what_cannot_be_is_refused() -> None:
    two = Two("mlp")
    with pytest.raises(BadOption, match=r"width = 2\.5; expected 1 to 2 times"):
        two.partial(2.5)
    with pytest.raises(BadOption, match=r"weight = 1\.0; expected a number between 0 and 1"):
        two.partial(1.5, 1.0)
    models = two.mine, two.theirs
    with pytest.raises(BadOption, match="ridge = 0; expected a number above 0"):
        refined(two.traced, two.partial(1.0), models, two.batches, ridge=0)
    with pytest.raises(CannotAlign, match="found no calibration batch"):
        refined(two.traced, two.partial(1.0), models, [])
    with pytest.raises(CannotAlign, match=r"1\.weight: found 1 axes, expected 2"):
        reshaped(two.model, {"1.weight": torch.zeros(3)})


def _given(layer: nn.Module) -> tuple[int, ...]:
    match layer:
        case nn.Conv2d():
            return (2, 3, 3, 2, 1)
        case nn.Linear():
            return (layer.in_features, layer.out_features)
        case _:
            return ()
