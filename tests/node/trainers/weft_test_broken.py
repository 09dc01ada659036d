import weft_test_no_such_module  # type: ignore[import-not-found] # noqa: F401
