"""Statistics, trends and rankings at 1,000 and at 1,000,000 optimizations.

`python benchmarks/statistics.py [--large N] [--trials N]`.

The code is in `statistics_at_scale.py`. This file has the name of a standard module, and its folder is first on the
path, so it must provide the standard module to those that import `statistics`.
"""

if __name__ == "__main__":
    from statistics_at_scale import main

    main()
else:
    import importlib.util
    import os
    import sys
    from pathlib import Path

    _spec = importlib.util.spec_from_file_location(__name__, Path(os.__file__).with_name("statistics.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[__name__] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
