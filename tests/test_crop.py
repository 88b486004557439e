# SPDX-License-Identifier: Apache-2.0
"""Affine maps between picture and crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from meshpose.crop import CROP, Crop

CROPS = [Crop(120, 80, 150, 0.7), Crop(640, 360, 1100, -2.4), Crop(30, 40, 60)]


@pytest.mark.parametrize("crop", CROPS)
def test_there_and_back(crop: Crop) -> None:
    points = np.random.default_rng(0).uniform(-50, 900, (40, 3))
    assert np.allclose(crop.to_picture(crop.to_crop(points)), points)
    assert np.allclose(Crop.from_array(crop.as_array()).to_crop(points), crop.to_crop(points))


def test_upright_crop_scales_and_shifts() -> None:
    crop = Crop(100, 50, 2 * CROP)
    assert np.allclose(crop.to_crop(np.array([100.0, 50.0, 10.0])), [CROP / 2, CROP / 2, 5.0])
    assert np.allclose(crop.corners()[0], [100 - CROP, 50 - CROP])


def test_clockwise_angle_turns_the_right_side_up() -> None:
    """A person who lies with the head to the picture's right stands upright in a crop of +90 degrees."""
    crop = Crop(200, 200, 256, np.pi / 2)
    head = crop.to_crop(np.array([300.0, 200.0]))
    assert np.allclose(head, [128, 28])


@pytest.mark.parametrize("crop", [Crop(780, 520, 200, 0.4), Crop(780, 520, 1100, 0.4), Crop(780, 520, 1500, 2.4)])
def test_warp_agrees_with_the_map(crop: Crop) -> None:
    """The middle of a painted disc lies in the warped crop where the map says, reduced pictures too."""
    image = np.zeros((1200, 1600, 3), np.uint8)
    cv2.circle(image, (800, 500), 12, (255, 255, 255), -1)
    seen = crop.warp(image)[..., 0].astype(float)
    y, x = np.mgrid[:CROP, :CROP] + 0.5
    found = np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
    assert np.linalg.norm(found - crop.to_crop(np.array([800.5, 500.5]))) < 0.05


def test_from_body_is_centred_and_turned() -> None:
    rng = np.random.default_rng(1)
    body = rng.normal(0, [20, 60], (400, 2)) + (300, 200)
    crop = Crop.from_body(body, np.ones(400), np.array([300.0, 210.0]), np.array([340.0, 170.0]))
    assert np.allclose([crop.cx, crop.cy], [300, 210])
    assert crop.angle == pytest.approx(np.pi / 4)
    assert np.all(np.abs(crop.to_crop(body) - CROP / 2).max(0) < CROP / 2)


def test_from_body_follows_what_is_seen_when_the_hips_are_not() -> None:
    body = np.concatenate([np.random.default_rng(2).uniform(0, 100, (300, 2)), np.full((200, 2), (50.0, 400.0))])
    seen = np.r_[np.ones(300), np.zeros(200)]
    crop = Crop.from_body(body, seen, np.array([50.0, 300.0]), np.array([50.0, 20.0]))
    assert abs(crop.cy - 50) < 5 and crop.side < 250
