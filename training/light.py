# SPDX-License-Identifier: Apache-2.0
"""Light of a panorama on the body: nine numbers a colour for the sky and its reflections, a lamp that throws shadows.

Irradiance is quadratic in the normal to within 1 % (Ramamoorthi and Hanrahan, "An efficient representation for
irradiance environment maps", SIGGRAPH 2001): E(n) = m . (1, y, z, x, xy, yz, 3zz - 1, xz, xx - yy).
World axes: y up; a panorama's centre is +z, its right -x (seen from inside). Colours are linear BGR with mean 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

GAMMA = 2.2


def basis(n: np.ndarray) -> np.ndarray:
    """Unit normals (k, 3) -> (k, 9)."""
    x, y, z = n.T
    return np.stack([np.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)


@dataclass(frozen=True)
class Light:
    """Sky (9, 3) coefficients, lamp: direction (3,) to it and linear colour (3,) BGR, all in world axes."""

    sky: np.ndarray
    lamp: np.ndarray
    colour: np.ndarray

    @staticmethod
    def of(panorama: np.ndarray) -> Light:
        """Light of an equirectangular BGR uint8 panorama; what is burnt out counts several times brighter."""
        small = cv2.resize(panorama, (48, 24), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
        linear = small**GAMMA
        linear *= 1 + 6 * np.clip(small.mean(-1, keepdims=True) - 0.85, 0, None) / 0.15
        v, u = np.meshgrid((np.arange(24) + 0.5) / 24, (np.arange(48) + 0.5) / 48, indexing="ij")
        up, around = (0.5 - v) * np.pi, (u - 0.5) * 2 * np.pi
        towards = np.stack([-np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)], -1).reshape(-1, 3)
        solid = np.cos(up).ravel() / np.cos(up).sum()
        linear = linear.reshape(-1, 3)
        linear = linear / (linear * solid[:, None]).sum(0).mean()
        normals = towards[::3]
        irradiance = 4 * np.clip(normals @ towards.T, 0, None) @ (linear * solid[:, None])
        sky = np.linalg.lstsq(basis(normals), irradiance, rcond=None)[0]
        weight = (linear.mean(1) ** 3) * solid * np.clip(towards[:, 1] + 0.3, 0, None)
        lamp = (weight[:, None] * towards).sum(0)
        tint = (weight[:, None] * linear).sum(0)
        return Light(sky, lamp / np.linalg.norm(lamp), tint / tint.mean())

    def turned(self, heading: float) -> Light:
        """The same light with the world turned by ``heading`` radians about the vertical: n looks up R^T n."""
        c, s = np.cos(heading), np.sin(heading)
        r = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        n = np.random.default_rng(0).normal(0, 1, (60, 3))
        n /= np.linalg.norm(n, axis=1, keepdims=True)
        sky = np.linalg.lstsq(basis(n), basis(n @ r) @ self.sky, rcond=None)[0]
        return Light(sky, r @ self.lamp, self.colour)


@dataclass(frozen=True)
class Exposure:
    """How one picture takes its light: share of the lamp, and gain in linear light."""

    share: float
    gain: float

    @staticmethod
    def random(rng: np.random.Generator) -> Exposure:
        """Mostly soft light; hard sun in a fifth of the pictures; up to two thirds of a stop off."""
        share = rng.uniform(0.55, 0.8) if rng.random() < 0.2 else rng.uniform(0, 0.5)
        return Exposure(float(share), float(np.exp(rng.normal(0.15, 0.3))))

    def shade(self, light: Light, normals: np.ndarray, lit: np.ndarray) -> np.ndarray:
        """Factor on sRGB colours (n, 3) for unit normals (n, 3) in world axes; lit (n,) share of the lamp's light."""
        sky = np.clip(basis(normals) @ light.sky, 0.08, None)
        lamp = np.clip(normals @ light.lamp, 0, None) * lit * 2.8
        linear = self.gain * ((1 - self.share) * sky + self.share * lamp[:, None] * light.colour)
        return (linear ** (1 / GAMMA)).astype(np.float32)
