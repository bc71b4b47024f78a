"""python -m starcaster_core"""

from .signals import ending_at_once

with ending_at_once():
    from .cli import main

raise SystemExit(main())
