"""Keypoints: read from files, fitted to a reference, mended over time, and drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dynamicrafter.animate_anyone.alignment import Alignment, filled, fit_to, fitted, smoothed
from dynamicrafter.animate_anyone.drawing import draw
from dynamicrafter.animate_anyone.keypoints import NOBODY, Person, Point
from dynamicrafter.animate_anyone.pose_files import poses_of_json
from dynamicrafter.errors import PictureError

STANDING: tuple[Point, ...] = (
    *((0.5, 0.1), (0.5, 0.2), (0.4, 0.2), (0.35, 0.35), (0.35, 0.5), (0.6, 0.2), (0.65, 0.35), (0.65, 0.5)),
    *((0.45, 0.5), (0.45, 0.7), (0.45, 0.9), (0.55, 0.5), (0.55, 0.7), (0.55, 0.9)),
    *((0.48, 0.08), (0.52, 0.08), (0.46, 0.09), (0.54, 0.09)),
)
SOMEBODY = Person(STANDING)


def flat(points: tuple[Point, ...], score: float = 0.9, size: tuple[int, int] = (1, 1)) -> list[float]:
    return [value for x, y in points for value in (x * size[0], y * size[1], score)]


def frame(points: list[float] | None = None, **more: Any) -> dict[str, Any]:
    return {"people": [{"pose_keypoints_2d": flat(STANDING) if points is None else points, **more}]}


def close(ours: Person, theirs: Person) -> bool:
    pairs = zip(ours.body, theirs.body, strict=True)
    return all(a == b if a is None or b is None else np.allclose(a, b) for a, b in pairs)


class TestFiles:
    def test_fractions_and_pixels_are_told_apart_in_each_array(self) -> None:
        pixels = frame(flat(STANDING, size=(640, 480)), hand_left_keypoints_2d=flat(((0.1, 0.2),) * 21))
        (person,) = poses_of_json({**pixels, "canvas_width": 640, "canvas_height": 480}, "walk.json")
        assert close(person, SOMEBODY)
        assert person.hands[0] == ((0.1, 0.2),) * 21

    def test_a_point_outside_of_the_canvas_does_not_make_pixels_of_fractions(self) -> None:
        points = (*STANDING[:17], (1.3, 0.5))
        (person,) = poses_of_json([frame(flat(points))], "walk.json")
        assert person.body[17] == (1.3, 0.5)

    def test_25_joints_are_read_without_the_middle_of_the_hips(self) -> None:
        joints = (*STANDING[:8], (0.9, 0.9), *STANDING[8:], *((0.1, 0.95),) * 6)
        (person,) = poses_of_json([frame(flat(joints))], "walk.json")
        assert close(person, SOMEBODY)

    def test_unsure_points_are_left_out_but_marks_of_presence_are_not_confidences(self) -> None:
        unsure = flat(STANDING)
        unsure[2] = 0.2
        assert poses_of_json([frame(unsure)], "a.json")[0].body[0] is None
        marked = flat(STANDING, score=1.0)
        marked[5] = 0.0
        (person,) = poses_of_json([frame(marked)], "a.json")
        assert (person.body[0], person.body[1]) == (STANDING[0], None)

    def test_the_surest_of_two_people_counts_and_a_frame_may_be_empty(self) -> None:
        other = {"pose_keypoints_2d": flat(tuple((x / 2, y) for x, y in STANDING), score=0.5)}
        both = {"people": [other, *frame()["people"]]}
        first, second = poses_of_json([both, {"people": []}], "two.json")
        assert close(first, SOMEBODY)
        assert second is NOBODY

    def test_pupils_are_dropped(self) -> None:
        face = flat(((0.5, 0.1),) * 70)
        assert len(poses_of_json([frame(face_keypoints_2d=face)], "face.json")[0].face) == 68

    def test_133_points_of_mmpose_are_read(self) -> None:
        points = [[10.0, 20.0] for _ in range(133)]
        points[5], points[6] = [30.0, 40.0], [50.0, 40.0]
        held = {"keypoints": points, "keypoint_scores": [0.9] * 133}
        info = [{"frame_id": 1, "instances": [held], "width": 100, "height": 200}]
        (person,) = poses_of_json({"instance_info": info}, "mm.json")
        assert person.body[1] == (0.4, 0.2), "the neck is between the shoulders"
        assert len(person.face) == 68

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                [],
                "walk.json has no frames with keypoints; it must be keypoints as OpenPose or mmpose write them",
            ),
            ("text", "walk.json has no frames with keypoints"),
            ([3], "frame 1 of walk.json is not an object"),
            ([{"boxes": []}], "frame 1 of walk.json has neither people nor instances"),
            (
                [frame([1.0, 2.0])],
                "pose_keypoints_2d in frame 1 of walk.json must be a list of x, y and confidence",
            ),
            ([frame([1.0] * 9)], "frame 1 of walk.json has a body of 3 points; 18 or 25 can be read"),
            (
                [frame(flat(STANDING, size=(640, 480)))],
                "has pixels but neither canvas_width nor canvas_height",
            ),
            ([{"people": [4]}], "has a person that is not an object"),
            ([{"people": []}] * 2, "walk.json has no person in any of its 2 frames; use another clip"),
            (
                [frame(["a", "b", "c"] * 18)],
                "frame 1 of walk.json has 'a' where a coordinate or a score must be",
            ),
            ([frame([float("nan")] * 54)], "has 'nan' where a coordinate"),
            (
                [{**frame(flat(STANDING, size=(640, 480))), "canvas_width": 1e-9, "canvas_height": 1e-9}],
                "frame 1 of walk.json has pixels but neither canvas_width nor canvas_height of 1 or more; add",
            ),
            (
                [frame(hand_left_keypoints_2d=flat(((0.1, 0.2),) * 20))],
                "hand_left_keypoints_2d in frame 1 of walk.json must have 21 points or none, but 20 came; give",
            ),
            (
                [frame(face_keypoints_2d=flat(((0.1, 0.2),)))],
                "face_keypoints_2d in frame 1 of walk.json must have 68 points or none, but 1 came; give",
            ),
            ([{"instances": [{"keypoints": []}]}], "has an instance without keypoints and keypoint_scores"),
            (
                [{"instances": [{"keypoints": [[1, 2]], "keypoint_scores": [1]}]}],
                r"has 1 keypoints; 133 \(COCO-WholeBody\) can be read",
            ),
        ],
    )
    def test_what_is_wrong_is_told_with_its_frame(self, values: Any, message: str) -> None:
        with pytest.raises(PictureError, match=message):
            poses_of_json(values, "walk.json")


class TestAlignment:
    def test_a_small_skeleton_elsewhere_gets_the_size_and_place_of_the_reference(self) -> None:
        change = Alignment(0.5, (0.5, 0.5), (0.2, 0.1))
        clip = fitted([SOMEBODY, SOMEBODY], change)
        back = fit_to(SOMEBODY, clip)
        assert back.scale == pytest.approx(2.0)
        assert all(close(person, SOMEBODY) for person in fitted(clip, back))

    def test_motion_is_kept(self) -> None:
        moved = fitted([SOMEBODY], Alignment(shift=(0.1, 0.0)))[0]
        clip = fitted([SOMEBODY, moved], Alignment(0.5))
        first, second = fitted(clip, fit_to(SOMEBODY, clip))
        assert close(first, SOMEBODY)
        assert np.allclose(np.array(second.body) - np.array(first.body), (0.1, 0.0))

    def test_a_foreshortened_limb_does_not_make_the_person_larger(self) -> None:
        bent = replace(
            SOMEBODY, body=(*STANDING[:8], (0.49, 0.3), *STANDING[9:11], (0.51, 0.3), *STANDING[12:])
        )
        assert fit_to(SOMEBODY, [bent, SOMEBODY]).scale == pytest.approx(1.0)

    def test_nothing_in_common_is_told(self) -> None:
        head = Person((STANDING[0], *(None,) * 17))
        with pytest.raises(ValueError, match="have no limb in common; set the scale by hand"):
            fit_to(SOMEBODY, [head])
        with pytest.raises(ValueError, match="there is no person in the clip of poses"):
            fit_to(SOMEBODY, [NOBODY])

    def test_limbs_of_no_length_and_absurd_scales_are_told(self) -> None:
        dot = fitted([SOMEBODY], Alignment(1e-320))
        with pytest.raises(ValueError, match="have no limb in common"):
            fit_to(SOMEBODY, dot)
        giant = fitted([SOMEBODY], Alignment(1e4))
        with pytest.raises(ValueError, match="must be 0.01 to 100 times as large as .* but is 0.0001 times"):
            fit_to(SOMEBODY, giant)

    def test_short_gaps_are_filled_and_long_ones_are_not(self) -> None:
        there = [fitted([SOMEBODY], Alignment(shift=(0.01 * i, 0.0)))[0] for i in range(10)]
        for missing, frames in (((3, 4), True), (tuple(range(2, 9)), False)):
            clip = [NOBODY if i in missing else person for i, person in enumerate(there)]
            found = filled(clip, longest=5)
            assert all(close(found[i], there[i]) == frames for i in missing)

    def test_smoothing_halves_a_jitter_and_keeps_a_steady_motion(self) -> None:
        steady = [fitted([SOMEBODY], Alignment(shift=(0.01 * i, 0.0)))[0] for i in range(9)]
        assert all(close(ours, theirs) for ours, theirs in zip(smoothed(steady), steady, strict=True))
        shaking = [fitted([SOMEBODY], Alignment(shift=(0.01 * (-1) ** i, 0.0)))[0] for i in range(9)]
        first = np.array([person.body[0] for person in smoothed(shaking)])[1:-1, 0] - STANDING[0][0]
        assert np.abs(first).max() < 0.005


class TestDrawing:
    def test_a_frame_without_a_person_is_black(self) -> None:
        assert not draw(NOBODY, 64, 48).any()

    def test_joints_are_at_their_places_in_their_colours(self) -> None:
        drawn = draw(SOMEBODY, 200, 100)
        assert drawn[20, 50].tolist() == [255, 0, 0]
        assert drawn[180, 55].tolist() == [85, 0, 255]
        assert drawn[160, 50].tolist() == [0, 0, 0], "between the legs"

    def test_hands_and_face_can_be_left_out(self) -> None:
        hand = tuple((0.2 + 0.01 * i, 0.3) for i in range(21))
        whole = replace(SOMEBODY, hands=(hand, hand), face=((0.5, 0.05),) * 68)
        assert (draw(whole, 200, 100) != draw(SOMEBODY, 200, 100)).any()
        assert (draw(whole, 200, 100, hands=False, face=False) == draw(SOMEBODY, 200, 100)).all()

    @pytest.mark.parametrize("place", [(-0.5, 0.5), (1.5, 0.5), (0.5, -2.0), (0.5, 3.0)])
    def test_what_is_outside_is_cut_off(self, place: Point) -> None:
        outside = Person((place, *STANDING[1:]))
        assert draw(outside, 64, 48).shape == (64, 48, 3)

    @pytest.mark.parametrize("far", [300.0, -300.0, 1e300, float("inf"), float("nan")])
    def test_a_point_far_outside_counts_as_not_found(self, far: float) -> None:
        hand = tuple((0.2 + 0.01 * i, 0.3) for i in range(21))
        whole = Person(STANDING, (hand,), ((0.5, 0.05),) * 68)

        def with_first(point: Point | None) -> Person:
            return Person((point, *STANDING[1:]), ((point, *hand[1:]),), (point, *((0.5, 0.05),) * 67))

        assert (draw(with_first((far, far)), 64, 48) == draw(with_first(None), 64, 48)).all()
        assert (draw(with_first((0.5, far)), 64, 48) != draw(whole, 64, 48)).any()

    def test_a_part_of_a_hand_is_refused(self) -> None:
        with pytest.raises(PictureError, match="a hand must have 21 points or none, but 20 came; put None"):
            draw(Person(STANDING, (((0.1, 0.2),) * 20,)), 64, 48)

    def test_a_limb_to_a_point_outside_is_drawn_as_far_as_the_border(self) -> None:
        below = Person((*STANDING[:10], (0.45, 4.9), *STANDING[11:]))
        assert draw(below, 64, 48)[63, 20:23].any()
