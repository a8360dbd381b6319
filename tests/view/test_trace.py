import torch
from torch import nn

from mixwell.view import trace
from mixwell.view.trace import mask_places


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fc = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x)
        return self.fc(h + self.block(h.relu()))


def test_what_goes_around_a_layer_is_seen():
    seen = trace(Skipping(), torch.rand(5, 4))
    assert [run.name for run in seen.runs] == ["stem", "block", "fc", ""]
    assert seen.around("stem", "output") == seen.around("fc", "input") == set()
    assert seen.around("block", "output") == {""}


def test_inputs_are_told_apart():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.layer, self.fc = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = self.layer(self.words(x["ids"])).masked_fill(x["pad"][:, :, None], 0.0)
            return self.fc(h.sum(1))

    x = {"ids": torch.randint(9, (3, 5)), "pad": torch.rand(3, 5) < 0.3}
    seen = trace(Masked(), x)
    assert seen.around("words", "output") == {"pad"}
    assert seen.around("fc", "input") == set()


def test_what_is_written_in_place_is_followed():
    class Filling(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            out = torch.zeros(len(x), 4)
            out[:, :2] = self.a(x)
            out[:, 2:].copy_(self.b(x))
            return out

    seen = trace(Filling(), torch.rand(3, 4))
    (a,), (b,) = seen.of("a"), seen.of("b")
    reached = seen.reached([seen.logits])
    assert set(a.left) <= reached
    assert set(b.left) <= reached


def test_a_model_that_changes_its_input_is_seen_and_the_batch_is_not_changed():
    class InPlace(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(2))

    x = torch.ones(3, 4)
    assert trace(InPlace(4, 2), x).changes_input
    assert not trace(nn.Linear(4, 2), x).changes_input
    assert torch.equal(x, torch.ones(3, 4))


def test_masks_are_known_by_their_names():
    x = {"attention_mask": 0, "encoder_attention_mask": 0, "lengths": 0, "padding": 0, "ids": 0}
    assert mask_places(x) == ("attention_mask", "encoder_attention_mask", "lengths")
    assert mask_places(torch.zeros(2)) == ()
