"""YAML from strangers: plain values alone, and no more of them than a person writes, however they are written."""

from __future__ import annotations

from typing import Any

import yaml

from wsss_fast.files.names import printable

# An alias stands for the whole of what it names: ten lines of aliases of aliases can mean a billion values.
MOST_VALUES = 100_000
LARGEST = 1 << 20
_DEEPEST = 100  # the reader's time grows with the square of it
_LONGEST_NUMBER = 100  # 1:59:59:… is a number too, in base 60, and long ones take for ever


class YamlError(ValueError):
    """The text is no YAML, or means more than is read. The message is one line and names no file."""


class _Loader(yaml.SafeLoader):
    def fetch_flow_collection_start(self, kind: Any) -> None:
        if self.flow_level >= _DEEPEST:
            raise YamlError("it is nested too deeply")
        super().fetch_flow_collection_start(kind)


def load(text: str) -> Any:
    """What one document says."""
    if len(text) > LARGEST:
        raise YamlError(f"it is longer than {LARGEST >> 20} MiB")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except YamlError:
        raise
    except RecursionError:
        raise YamlError("it is nested too deeply") from None
    except Exception as error:  # what makes dates, numbers and keys raises nearly anything
        raise YamlError(printable(" ".join(str(error).split())[:300]) or type(error).__name__) from None


def _check(root: yaml.Node) -> None:
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key in sizes:
            if not sizes[key]:
                raise YamlError("it holds a value that contains itself")
            return sizes[key]
        sizes[key] = 0
        total = 1
        if isinstance(node, yaml.ScalarNode):
            if node.tag.endswith((":int", ":float", ":timestamp")) and len(node.value) > _LONGEST_NUMBER:
                raise YamlError(f"it holds a number of {len(node.value)} characters; at most {_LONGEST_NUMBER} are read")
        else:
            for child in node.value:
                total += sum(map(size, child)) if isinstance(child, tuple) else size(child)
        if total > MOST_VALUES:
            raise YamlError(f"it means more than {MOST_VALUES} values, counting what aliases stand for")
        sizes[key] = total
        return total

    size(root)
