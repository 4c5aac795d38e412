"""The order of the prompts, which a resume finds again in any epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler


class DataOrder(Sampler):
    """TRL's `RepeatSampler`, in the order that an uninterrupted training would see.

    TRL draws one permutation per epoch from a generator that a resumed training seeds anew: in its second epoch it
    would go through the prompts as in its first. Here the permutations of the epochs before are drawn and dropped.
    """

    def __init__(self, sampler: Any) -> None:
        """Wrap a `trl.trainer.utils.RepeatSampler`."""
        self.sampler = sampler
        self.epoch = 0
        """The next one to be gone through; whoever resumes sets it."""

    def __iter__(self) -> Iterator[int]:
        sampler = self.sampler
        if sampler.shuffle and sampler.seed is not None:
            sampler.generator.manual_seed(sampler.seed)
            for _ in range(self.epoch):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
        self.epoch += 1
        yield from sampler

    def __len__(self) -> int:
        return len(self.sampler)
