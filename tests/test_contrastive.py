"""The contrastive loss against a plain float64 loop, for every meaning of positive and negative."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch.nn import functional

from trainer.objective.contrastive import Candidates, candidates, contrastive_loss
from trainer.objective.ids import id_pairs, occurrences, same

Positives = Literal["caption", "image", "concept"]
Negatives = Literal["all", "other_concepts"]

TAU = 0.08
FEATURES = 6
# Two ranks of six images each. Caption 1 is rendered on both ranks; captions 1 and 2 are of one
# concept, as are captions 3 and 4 (rank 0 and rank 1).
CAPTIONS = [[1, 1, 2, 2, 3, 3], [4, 4, 1, 1, 5, 5]]
CONCEPTS = {1: 10, 2: 10, 3: 11, 4: 11, 5: 12}


def pairs(values: list[int]) -> torch.Tensor:
    # The low halves are equal: both halves have to be compared.
    return torch.tensor([[7, value] for value in values])


class Case:
    """Random features of two ranks and the identities of their images and keys."""

    def __init__(self, positives: Positives, num_globals: int, num_locals: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.positives = positives
        self.num_globals, self.num_locals = num_globals, num_locals

        def features(crops: int) -> torch.Tensor:
            return torch.randn((2, crops * 6, FEATURES), generator=generator)

        self.globals, self.locals, self.keys = (
            features(num_globals),
            features(num_locals),
            features(num_globals),
        )

    def classes(self, rank: int) -> list[int]:
        if self.positives == "image":
            return [100 * rank + image for image in range(6)]
        captions = CAPTIONS[rank]
        return captions if self.positives == "caption" else [CONCEPTS[c] for c in captions]

    def concepts(self, rank: int) -> list[int]:
        return [CONCEPTS[caption] for caption in CAPTIONS[rank]]

    def candidates(self, rank: int, negatives: Negatives) -> Candidates:
        both = range(2)
        return candidates(
            self.keys.flatten(0, 1),
            classes_N2=pairs(self.classes(rank)),
            classes_M2=torch.cat([pairs(self.classes(r) * self.num_globals) for r in both]),
            concepts_N2=pairs(self.concepts(rank)),
            concepts_M2=torch.cat([pairs(self.concepts(r) * self.num_globals) for r in both]),
            negatives=negatives,
            first_own=rank * self.num_globals * 6,
        )

    def naive(self, anchors: torch.Tensor, rank: int, negatives: Negatives, own: bool) -> float:
        """Equation by equation, one anchor and one candidate at a time."""
        total = 0.0
        for row, anchor in enumerate(anchors.double()):
            image = row % 6
            positives, denominator = [], []
            for other_rank in range(2):
                for other_row, key in enumerate(self.keys[other_rank].double()):
                    if own and other_rank == rank and other_row == row:
                        continue
                    cosine = float(anchor @ key / (anchor.norm() * key.norm())) / TAU
                    other = other_row % 6
                    alike = self.classes(rank)[image] == self.classes(other_rank)[other]
                    related = self.concepts(rank)[image] == self.concepts(other_rank)[other]
                    if alike:
                        positives.append(cosine)
                    if alike or negatives == "all" or not related:
                        denominator.append(cosine)
            log_sum = math.log(sum(math.exp(value) for value in denominator))
            total += sum(log_sum - value for value in positives) / len(positives)
        return total / len(anchors)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("negatives", ["all", "other_concepts"])
@pytest.mark.parametrize(
    ("positives", "num_globals"),
    [("caption", 1), ("caption", 2), ("concept", 1), ("concept", 3), ("image", 2)],
)
def test_the_loss_is_the_naive_one(
    positives: Positives, num_globals: int, negatives: Negatives, rank: int
) -> None:
    case = Case(positives, num_globals, num_locals=3)
    against = case.candidates(rank, negatives)
    for anchors, own in ((case.globals[rank], True), (case.locals[rank], False)):
        loss = contrastive_loss(anchors, against, temperature=TAU, own_key=own)
        expected = case.naive(anchors, rank, negatives, own)
        assert loss.item() == pytest.approx(expected, rel=2e-5)


def test_local_anchors_of_an_image_alone_have_its_own_key_as_positive() -> None:
    case = Case("image", num_globals=1, num_locals=2)
    against = case.candidates(0, "all")
    loss = contrastive_loss(case.locals[0], against, temperature=TAU, own_key=False)
    assert loss.item() == pytest.approx(case.naive(case.locals[0], 0, "all", own=False), rel=2e-5)


def test_a_global_anchor_without_a_positive_is_zero_not_nan() -> None:
    case = Case("image", num_globals=1, num_locals=0)
    anchors = case.globals[0].requires_grad_()
    loss = contrastive_loss(anchors, case.candidates(0, "all"), temperature=TAU, own_key=True)
    loss.backward()
    assert loss.item() == 0.0
    assert anchors.grad is not None
    assert torch.isfinite(anchors.grad).all()


def naive_loss(case: Case, anchors: torch.Tensor, negatives: Negatives, own: bool) -> torch.Tensor:
    """Of rank 1, with plain autograd on all logits."""
    keys = functional.normalize(case.keys.flatten(0, 1).double(), dim=1)
    crops = len(anchors) // 6

    def of_keys(rank_ids: Callable[[int], list[int]]) -> torch.Tensor:
        return torch.tensor([i for rank in range(2) for i in rank_ids(rank) * case.num_globals])

    classes = torch.tensor(case.classes(1) * crops)
    positive = classes[:, None] == of_keys(case.classes)[None]
    concepts = torch.tensor(case.concepts(1) * crops)
    related = concepts[:, None] == of_keys(case.concepts)[None]
    kept = positive | ~related if negatives == "other_concepts" else torch.ones_like(positive)
    if own:
        rows = torch.arange(len(anchors))
        positive[rows, case.num_globals * 6 + rows] = False
        kept[rows, case.num_globals * 6 + rows] = False
    logits = functional.normalize(anchors, dim=1) @ keys.t() / TAU
    log_q = logits.masked_fill(~kept, -math.inf).log_softmax(dim=1)
    p = positive.double() / positive.sum(dim=1, keepdim=True)
    return -(p * log_q.masked_fill(~positive, 0.0)).sum(dim=1).mean()


@pytest.mark.parametrize("chunk_logits", [1, 24 * 4, 2**20])
@pytest.mark.parametrize("negatives", ["all", "other_concepts"])
@pytest.mark.parametrize(("positives", "num_globals"), [("caption", 1), ("image", 2)])
def test_the_gradient_is_that_of_the_naive_loss_in_any_chunks(
    positives: Positives, num_globals: int, negatives: Negatives, chunk_logits: int
) -> None:
    case = Case(positives, num_globals, num_locals=3)
    against = case.candidates(1, negatives)
    for anchors, own in ((case.globals[1], True), (case.locals[1], False)):
        exact = anchors.double().requires_grad_()
        (3.0 * naive_loss(case, exact, negatives, own)).backward()
        found = anchors.clone().requires_grad_()
        loss = contrastive_loss(
            found, against, temperature=TAU, own_key=own, chunk_logits=chunk_logits
        )
        (3.0 * loss).backward()
        assert found.grad is not None
        assert exact.grad is not None
        torch.testing.assert_close(found.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_globals", [1, 2])
def test_parts_of_the_images_add_up_to_the_loss_of_all(num_globals: int) -> None:
    case = Case("caption", num_globals, num_locals=2)
    against = case.candidates(1, "other_concepts")
    for anchors, own in ((case.globals[1], True), (case.locals[1], False)):
        whole = contrastive_loss(anchors, against, temperature=TAU, own_key=own).item()
        total = 0.0
        for images in ([0, 3], [1, 2, 4, 5]):
            rows = torch.tensor(images)
            part = anchors.unflatten(0, (-1, 6))[:, rows].flatten(0, 1)
            loss = contrastive_loss(part, against.of_images(rows), temperature=TAU, own_key=own)
            total += loss.item() * len(images) / 6
        assert total == pytest.approx(whole, rel=1e-5)


def test_no_gradient_reaches_the_keys() -> None:
    case = Case("caption", num_globals=1, num_locals=0)
    case.keys.requires_grad_()
    assert not case.candidates(0, "all").keys_MZ.requires_grad


def test_low_precision_around_it_changes_nothing() -> None:
    case = Case("caption", num_globals=1, num_locals=0)
    plain = contrastive_loss(
        case.globals[0], case.candidates(0, "all"), temperature=TAU, own_key=True
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        against = case.candidates(0, "all")
        inside = contrastive_loss(case.globals[0], against, temperature=TAU, own_key=True)
    assert inside.dtype == torch.float32
    assert inside.item() == plain.item()


def test_no_local_crops_is_no_loss() -> None:
    case = Case("caption", num_globals=1, num_locals=0)
    loss = contrastive_loss(
        case.locals[0], case.candidates(0, "all"), temperature=TAU, own_key=False
    )
    assert loss.item() == 0.0


def test_anchors_that_are_not_whole_crops_are_refused() -> None:
    case = Case("caption", num_globals=1, num_locals=0)
    with pytest.raises(ValueError, match="not crops of 6 images"):
        contrastive_loss(
            case.globals[0][:5], case.candidates(0, "all"), temperature=TAU, own_key=True
        )


def test_identities_keep_all_their_bytes() -> None:
    ids = [bytes(range(16)), bytes(range(1, 17)), b"\xff" * 16, bytes(range(16))]
    rows = id_pairs(ids)
    assert rows.dtype == torch.int64
    assert same(rows, rows).tolist() == [[a == b for a in ids] for b in ids]
    assert occurrences(rows).tolist() == [2, 1, 1, 2]
    with pytest.raises(ValueError, match="16 bytes"):
        id_pairs([b"short"])
