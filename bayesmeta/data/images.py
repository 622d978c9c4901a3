"""Labelled image sets, and few-shot tasks made of them: N classes at random, and a few images of each.

A task of an image set asks which of N classes an image shows, after K images of each: N-way K-shot. Its classes are
numbered 0 to N-1 in an order of its own, so nothing is to be learnt from the numbers. Learners are judged on classes
that they never saw: `split` parts a set by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from bayesmeta.data.episodes import Draw, drawn
from bayesmeta.data.sheet import as_html, as_text
from bayesmeta.errors import DataError, OptionError, UnknownNameError, unknown
from bayesmeta.streams import Stream
from bayesmeta.tasks import Tasks

__all__ = ["Images"]

ROTATIONS = 4


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Images of known classes, made by `from_arrays`, `bm.data.omniglot`, `bm.data.digits` or `bm.data.image_folder`.

    Attributes:
        title: What they show.
        pixels: The images as they are kept (n, channels, height, width), uint8 or float32.
        label: What each image was labelled as (n,), from 0.
        names: The classes' names.
        top: The value of a pixel that counts as 1: tasks have ``pixels / top``.
        origin: The label that each class goes back to (classes,).
        turns: The quarter turns, counterclockwise, by which the images of each class are rotated (classes,).

    Example:
        >>> images = Images.from_arrays(np.zeros((40, 8, 8)), [k % 10 for k in range(40)])
        >>> support, query = images.tasks(3, ways=5, shots=1, query=2, seed=1)
        >>> support.x.shape, query.sizes.tolist(), support[0].y.tolist()
        (torch.Size([15, 1, 8, 8]), [10, 10, 10], [0.0, 1.0, 2.0, 3.0, 4.0])
    """

    title: str
    pixels: Tensor
    label: Tensor
    names: tuple[str, ...]
    top: float
    origin: Tensor
    turns: Tensor

    @staticmethod
    def from_arrays(
        images: Any,
        labels: Any,
        *,
        names: Sequence[object] | None = None,
        top: float | None = None,
        title: str = "images",
    ) -> Images:
        """A set from an array of images and a label for each.

        Args:
            images: Grey ones (n, height, width), or (n, channels, height, width).
            labels: One for each image (n,): numbers or text.
            names: Names of the classes in the order of their sorted labels; the labels themselves by default.
            top: The value of a pixel that counts as 1: by default 255 for whole numbers, 1 for others.
            title: What they show.

        Raises:
            DataError: Shapes that do not match, values that are not finite, or a name that is there twice.
            OptionError: `top` is not above 0.
        """
        pixels, highest = _pixels(images)
        if top is not None and not 0 < top < math.inf:
            raise OptionError(f"top must be a number above 0, got {top!r}")
        values, label = np.unique(np.asarray(labels), return_inverse=True)
        if label.shape != (len(pixels),):
            raise DataError(
                f"labels: got shape {np.shape(labels)} for {len(pixels)} images; wanted one label for each image, "
                f"({len(pixels)},)"
            )
        found = tuple(map(str, values.tolist() if names is None else names))
        if len(found) != len(values) or len(set(found)) != len(found):
            raise DataError(f"names: got {len(found)}, {len(set(found))} of them distinct, for {len(values)} classes")
        count = torch.arange(len(values))
        return Images(
            title, pixels, torch.from_numpy(label), found, top or highest, count, torch.zeros(len(values)).long()
        )

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def n_classes(self) -> int:
        """How many classes there are, rotated ones included."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def sizes(self) -> Tensor:
        """Images of each class (classes,)."""
        return torch.bincount(self.label, minlength=int(self.origin.max()) + 1)[self.origin]

    def of(self, name: str, count: int | None = None) -> Tensor:
        """The images of a class (n, channels, height, width), float64 with 1 for `top`.

        Args:
            name: The class.
            count: The first so many of them; all by default.
        """
        which = self._position(name)
        rows = (self.label == self.origin[which]).nonzero().squeeze(1)[:count]
        return self._values(rows, self.turns[which].expand(len(rows)))

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    # --- making others --------------------------------------------------------------------------------------

    def with_rotations(self) -> Images:
        """Each class four times: upright, and turned by 90, 180 and 270 degrees as classes of their own.

        As in Santoro, Bartunov, Botvinick, Wierstra and Lillicrap (2016), Meta-learning with memory-augmented neural
        networks, ICML. Not every class is another one when it is turned: a 0 is not, and a 6 is a 9.

        Raises:
            DataError: The images are not square, or have been rotated before.
        """
        _, height, width = self.shape
        if height != width or bool(self.turns.any()):
            what = f"the images are {height} x {width}" if height != width else "they have been rotated before"
            raise DataError(f"with_rotations wants square images that have not been rotated: {what}")
        marks = ["", *(f", turned {90 * k}°" for k in range(1, ROTATIONS))]
        return replace(
            self,
            names=tuple(name + mark for mark in marks for name in self.names),
            origin=self.origin.repeat(ROTATIONS),
            turns=torch.arange(ROTATIONS).repeat_interleave(self.n_classes),
        )

    def take(self, classes: Sequence[str | int]) -> Images:
        """Some of the classes, by name or position, in that order.

        Raises:
            UnknownNameError: A class that is not there.
            DataError: None is asked for, or one of them twice.
        """
        where = [self._position(which) for which in classes]
        if not where or len(set(where)) != len(where):
            raise DataError(f"classes: got {list(classes)[:10]}; wanted one class at least, each of them once")
        index = torch.tensor(where)
        return replace(
            self,
            names=tuple(self.names[k] for k in where),
            origin=self.origin[index],
            turns=self.turns[index],
        )

    def split(self, *parts: float, seed: int = 0) -> tuple[Images, ...]:
        """Sets that have no class in common: some classes at random in each, and those left over in one more.

        A class and its rotations stay together.

        Args:
            *parts: Shares of the classes (0.6, 0.2), or numbers of classes before rotations (6, 2).
            seed: Which classes.

        Raises:
            OptionError: Parts that are neither shares nor whole numbers, are more than all, or leave a set empty.

        Example:
            >>> images = Images.from_arrays(np.zeros((20, 8, 8)), range(20))
            >>> [part.n_classes for part in images.split(0.6, 0.2)], [part.n_classes for part in images.split(15)]
            ([12, 4, 4], [15, 5])
        """
        origins = torch.unique(self.origin)
        counts = _counts(parts, len(origins))
        shuffled = origins[torch.randperm(len(origins), generator=torch.Generator().manual_seed(seed))]
        chosen = [torch.isin(self.origin, part) for part in shuffled.split(counts)]
        return tuple(self.take(mask.nonzero().squeeze(1).tolist()) for mask in chosen)

    # --- tasks ----------------------------------------------------------------------------------------------

    @overload
    def tasks(
        self, count: int, ways: int = 5, shots: int = 1, query: int = 15, seed: int = 0
    ) -> tuple[Tasks, Tasks]: ...
    @overload
    def tasks(self, count: int, ways: int = 5, shots: int = 1, *, query: None, seed: int = 0) -> Tasks: ...
    def tasks(
        self, count: int, ways: int = 5, shots: int = 1, query: int | None = 15, seed: int = 0
    ) -> Tasks | tuple[Tasks, Tasks]:
        """Tasks of N classes each: which class, 0 to N-1, does an image (channels, height, width) show?

        The same seed gives the same classes and the same query whatever `shots` is, and more shots are the same shots
        and some more. Names hold the seed, so that tasks of two seeds can be told apart. Pixels are float64: a thousand
        images of 28 x 28 take 6 MB.

        Args:
            count: How many tasks.
            ways: Classes of each, N.
            shots: Support images of each class, K.
            query: Query images of each class, or None for support alone.
            seed: Seeds everything random.

        Returns:
            Support and query, or the support.

        Raises:
            OptionError: A number that is too low, or more ways than there are classes.
            DataError: A class has too few images.
        """
        draw = drawn(self.sizes, self.names, Draw(count, ways, shots, query or 0), seed)
        first = query or 0
        support = self._tasks(draw.classes, draw.places[:, :, first:], seed)
        return support if query is None else (support, self._tasks(draw.classes, draw.places[:, :, :first], seed))

    def stream(
        self,
        ways: int = 5,
        shots: int = 1,
        query: int = 15,
        *,
        batch: int = 25,
        validation: Images | None = None,
        watched: int = 100,
    ) -> Stream:
        """Tasks without end to train on, for ``bm.meta.fit(net, images.stream(...), algorithm)``.

        Each task has ``shots + query`` images of each class together; the algorithm takes `shots` of each class, its
        own setting, as support.

        Args:
            ways: Classes of each task.
            shots: Images of each class that are meant for support.
            query: Images of each class that are meant for query.
            batch: Tasks of a batch.
            validation: Images of other classes, by tasks of which training is watched and ended.
            watched: How many such tasks.
        """
        rows = shots + query
        held = None if validation is None else validation.tasks(watched, ways, rows, query=None)
        self.tasks(1, ways, rows, query=None)

        def episodes(seed: int) -> Tasks:
            return self.tasks(batch, ways, rows, query=None, seed=seed)

        return Stream(episodes, validation=held)

    # --- inside ---------------------------------------------------------------------------------------------

    @cached_property
    def _by_label(self) -> tuple[Tensor, Tensor]:
        """The images in the order of their labels (n,), and where each label begins."""
        sizes = torch.bincount(self.label)
        return torch.argsort(self.label, stable=True), sizes.cumsum(0) - sizes

    def _tasks(self, classes: Tensor, places: Tensor, seed: int) -> Tasks:
        """Tasks of these classes (T, N), with the images at these places in each (T, N, rows)."""
        count, ways, rows = places.shape
        order, begin = self._by_label
        row = order[begin[self.origin[classes]].unsqueeze(-1) + places]
        turns = self.turns[classes].unsqueeze(-1).expand_as(places)
        return Tasks(
            self._values(row.reshape(-1), turns.reshape(-1)),
            torch.arange(ways, dtype=torch.float64).repeat_interleave(rows).repeat(count),
            torch.arange(count + 1) * ways * rows,
            tuple(f"{seed}-{k}" for k in range(count)),
        )

    def _values(self, rows: Tensor, turns: Tensor) -> Tensor:
        """The images of these rows, each turned (n, channels, height, width)."""
        found = self.pixels[rows]
        for k in range(1, ROTATIONS):
            turned = turns == k
            if bool(turned.any()):
                found[turned] = torch.rot90(found[turned], k, (-2, -1))
        return found.double() / self.top

    def _position(self, which: str | int) -> int:
        if isinstance(which, str):
            if which not in self.names:
                raise UnknownNameError(unknown("class", which, self.names))
            return self.names.index(which)
        if not -self.n_classes <= which < self.n_classes:
            raise UnknownNameError(f"class {which}: wanted a name, or a position from 0 to {self.n_classes - 1}")
        return which % self.n_classes


def _pixels(images: Any) -> tuple[Tensor, float]:
    """Images (n, channels, height, width) as they are kept, and the value that counts as 1."""
    values = np.asarray(images.detach().cpu() if isinstance(images, Tensor) else images)
    values = values[:, None] if values.ndim == 3 else values
    if values.ndim != 4 or not values.size or values.dtype.kind not in "biuf":
        raise DataError(
            f"images: got {values.dtype} of shape {np.shape(images)}; wanted numbers, (n, height, width) or (n, "
            "channels, height, width), and one image at least"
        )
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DataError("images: some values are not finite")
        return torch.from_numpy(values.astype(np.float32)), 1.0
    if values.min() < 0 or values.max() > 255:
        raise DataError(
            f"images: whole numbers from {values.min()} to {values.max()}; wanted 0 to 255, or floating-point values"
        )
    return torch.from_numpy(values.astype(np.uint8)), 1.0 if values.dtype.kind == "b" else 255.0


def _counts(parts: Sequence[float], total: int) -> list[int]:
    """How many classes are in each set, the rest included where there is one."""
    whole = all(isinstance(part, int) for part in parts)
    used = sum(parts)
    most = total if whole else 1 + 1e-9
    if not parts or min(parts) <= 0 or used > most or (not whole and max(parts) >= 1):
        raise OptionError(
            f"split: got {parts} for {total} classes; wanted shares of them, such as 0.6, 0.2, or whole numbers, such "
            "as 6, 2, together no more than all"
        )
    ends = np.cumsum(parts) if whole else np.round(np.cumsum(parts) * total)
    counts = [int(count) for count in np.diff(ends, prepend=0)]
    counts += [total - sum(counts)] * (sum(counts) < total)
    if min(counts) == 0 or len(counts) == 1:
        raise OptionError(f"split: {parts} of {total} classes leaves a set without any; wanted two sets or more")
    return counts
