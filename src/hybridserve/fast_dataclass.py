"""`dataclass` for frozen records with slots, whose creation costs a tenth of the standard library's.

`dataclasses.dataclass` compiles six methods for each class when its module is imported: for all classes that `plan`
and `check` import, a sixth of their run time. Here the methods are shared, and ``__init__`` is compiled when the first
object is made. To type checkers, and to `dataclasses.fields`, `replace` and `asdict`, these are ordinary dataclasses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses
    import operator

    def dataclass(*, frozen, slots, kw_only=False):
        """Decorate a class as ``dataclasses.dataclass(frozen=True, slots=True)`` does."""
        assert frozen
        assert slots

        def decorate(cls):
            for name, method in _METHODS.items():
                setattr(cls, name, method)
            cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
            # One name would not give a tuple.
            cls._values = operator.attrgetter("__class__", *cls.__dataclass_fields__)
            return cls

        return decorate

    class _Methods:
        def __init__(self, *args, **kwargs):
            type(self).__init__ = _compile_init(type(self))
            type(self).__init__(self, *args, **kwargs)

        def __repr__(self):
            fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
            return f"{type(self).__qualname__}({fields})"

        def __eq__(self, other):
            if type(self) is not type(other):
                return NotImplemented
            return type(self)._values(self) == type(self)._values(other)

        def __hash__(self):
            return hash(type(self)._values(self))

        def __setattr__(self, name, value):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

        def __getstate__(self):
            return type(self)._values(self)[1:]

        def __setstate__(self, state):
            for name, value in zip(self.__dataclass_fields__, state, strict=True):
                object.__setattr__(self, name, value)

    _METHODS = {name: method for name, method in vars(_Methods).items() if callable(method)}

    def _compile_init(cls):
        scope, parameters, keywords, lines = {"_set": object.__setattr__}, ["self"], [], []
        for field in dataclasses.fields(cls):
            parameter, value = field.name, field.name
            if field.default is not dataclasses.MISSING:
                scope[f"_{field.name}"] = field.default
                parameter += f"=_{field.name}"
            elif field.default_factory is not dataclasses.MISSING:
                scope[f"_{field.name}"] = field.default_factory
                parameter += "=_set"
                value = f"_{field.name}() if {field.name} is _set else {field.name}"
            (keywords if field.kw_only else parameters).append(parameter)
            lines.append(f" _set(self, {field.name!r}, {value})")
        if hasattr(cls, "__post_init__"):
            lines.append(" self.__post_init__()")
        signature = ", ".join([*parameters, *(["*", *keywords] if keywords else [])])
        exec(f"def __init__({signature}):\n" + "\n".join(lines), scope)
        return scope["__init__"]
