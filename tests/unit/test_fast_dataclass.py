"""The `dataclass` decorator of this project behaves as the standard library's."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from hybridserve.fast_dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    tags: tuple[str, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    size: int = 1
    name: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("size")


def reference(cls: type) -> Any:
    """The same class built with `dataclasses`."""
    options = {"frozen": True, "slots": True, "kw_only": cls is Checked}
    fields = [(field.name, field.type, copy.copy(field)) for field in dataclasses.fields(cls)]
    return dataclasses.make_dataclass(cls.__qualname__, fields, **options)


def test_records_equal_standard_dataclasses() -> None:
    cases: list[tuple[type, dict[str, Any]]] = [
        (Point, {"x": 1}),
        (Point, {"x": 1, "y": 5, "tags": ("a",)}),
        (Checked, {"name": "a"}),
        (Checked, {"name": "a", "size": 3}),
    ]
    for cls, values in cases:
        ours, standard = cls(**values), reference(cls)(**values)
        assert repr(ours) == repr(standard)
        assert dataclasses.asdict(ours) == dataclasses.asdict(standard)
    assert Point(1, y=3) == Point(1, 3) != Point(1)
    assert Point(1) != (1, 2, (), [])
    assert Point(1).notes is not Point(1).notes
    assert Checked(name="a") != Point(1)
    assert len({Checked(name="a"), Checked(name="a"), Checked(name="b")}) == 2
    assert dataclasses.replace(Point(1), y=7).total == 8


def test_records_are_immutable_without_extra_attributes() -> None:
    point: Any = Point(1)
    for name in ("x", "other"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(point, name, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert not hasattr(point, "__dict__")


def test_records_check_their_arguments() -> None:
    make: Any = Point
    for arguments in ((), (1, 2, (), [], 5)):
        with pytest.raises(TypeError):
            make(*arguments)
    make = Checked
    with pytest.raises(TypeError):
        make("a")
    with pytest.raises(ValueError, match="size"):
        Checked(size=0, name="a")


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_records_can_be_copied_and_pickled(clone: Any) -> None:
    assert clone(Point(1, 4, ("a",))) == Point(1, 4, ("a",))
