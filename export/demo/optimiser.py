"""Adam with decoupled weight decay (Loshchilov and Hutter 2017), warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rates: a linear warm-up to `peak`, then half a cosine down to `last`."""

    steps: int
    peak: float = 2e-3
    last: float = 3e-5
    warm_up: int = 100

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warm_up:
            return self.peak * (step + 1) / self.warm_up
        turn = math.pi * (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.last + (self.peak - self.last) * (1 + math.cos(turn)) / 2


class AdamW:
    """Updates variables by Adam; holds the two moving averages of each."""

    beta_1, beta_2, epsilon, decay, clip = 0.9, 0.99, 1e-8, 0.05, 1.0

    def __init__(self, variables: Sequence[tf.Variable]) -> None:
        self._variables = variables
        self._means = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self._squares = [tf.Variable(tf.zeros_like(v)) for v in variables]

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, step: tf.Tensor) -> None:
        """Update every variable; `step` counts from 0. Biases and gains do not decay."""
        gradients, _ = tf.clip_by_global_norm(gradients, self.clip)
        count = tf.cast(step, tf.float32) + 1
        correction = tf.sqrt(1 - self.beta_2**count) / (1 - self.beta_1**count)
        for variable, gradient, mean, square in zip(
            self._variables, gradients, self._means, self._squares, strict=True
        ):
            mean.assign(self.beta_1 * mean + (1 - self.beta_1) * gradient)
            square.assign(self.beta_2 * square + (1 - self.beta_2) * tf.square(gradient))
            if len(variable.shape) > 1:
                variable.assign(variable * (1 - rate * self.decay))
            variable.assign_sub(rate * correction * mean / (tf.sqrt(square) + self.epsilon))
