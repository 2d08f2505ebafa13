"""The generated documents are what the code would write now."""

import importlib.util

import pytest

from tests.test_imports import ROOT


def documents():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate.documents()


@pytest.mark.parametrize(("name", "text"), documents().items())
def test_a_generated_document_is_current(name, text):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run `make docs`"
